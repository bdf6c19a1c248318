"""Peers of a generator that optimise every image on its own, for a comparison on one machine.

Written from the papers: gradient ascent on pixels (Mordvintsev et al. 2015, "Inceptionism"),
Fourier-parametrised feature visualisation (Olah et al. 2017, "Feature Visualization") and
DeepInversion (Yin et al. 2020, "Dreaming to Distill"). Steps and weights are ours, for small images
and a few minutes. DeepInversion is there a second time with the steps, rate and weights that its
authors name for CIFAR-10: twice the steps, ten times the weight on batch norm, a total variation
in four directions that is a sum of norms and not a mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from preimage.classifier import Classifier
from preimage.config import Runtime
from preimage.runtime import channels_last, make_fabric, stream

BATCH = 125


@dataclass(frozen=True)
class Method:
    """How one peer makes images: parameters, their images, a loss, and an optimiser."""

    steps: int
    lr: float
    jitter: int
    """Largest random roll in pixels, both ways."""
    start: Callable[[int, Classifier, torch.Generator], Tensor]
    """Parameters for so many images."""
    images: Callable[[Tensor, Classifier], Tensor]
    """Images (B, C, H, W) in [0, 1] of the parameters."""
    loss: Callable[[Tensor, Tensor, Classifier], Tensor]
    """Of images as the classifier sees them, and labels."""
    flip: bool = False


ON = Runtime(accelerator="cpu")
"""Where all methods run, ours as well: a pace says nothing beside one of other hardware."""


def optimise(method: Method, classifier: Classifier, labels: Tensor, seed: int) -> Tensor:
    """Make one image for each label, a batch at a time; the classifier is frozen already.

    Returns:
        (N, C, H, W) in [0, 1], on the CPU.
    """
    fabric = make_fabric(ON)
    parts = []
    for number, wanted in enumerate(labels.split(BATCH)):
        random = stream("peer", seed, number)
        parameters = method.start(len(wanted), classifier, random).requires_grad_()
        optimizer = torch.optim.Adam([parameters], lr=method.lr)
        for _ in range(method.steps):
            images = method.images(parameters, classifier)
            with fabric.autocast():
                loss = method.loss(_seen(images, method, random), wanted, classifier)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        parts.append(method.images(parameters, classifier).detach())
    return torch.cat(parts)


def _seen(images: Tensor, method: Method, random: torch.Generator) -> Tensor:
    """Rolled by a random amount, and mirrored half of the time where the method does so."""
    rows, columns = torch.randint(-method.jitter, method.jitter + 1, (2,), generator=random)
    images = images.roll((int(rows), int(columns)), (2, 3))
    if method.flip and torch.rand((), generator=random) < 0.5:
        images = images.flip(3)
    return channels_last(images)


def _variation(images: Tensor) -> Tensor:
    """Total variation with squared differences, mean over pixels."""
    return images.diff(dim=2).square().mean() + images.diff(dim=3).square().mean()


def _noise(count: int, classifier: Classifier, random: torch.Generator) -> Tensor:
    return 0.5 + 0.1 * torch.randn(count, *classifier.spec.shape, generator=random)


def _clipped(parameters: Tensor, classifier: Classifier) -> Tensor:
    """Clipped to [0, 1] with the gradient of the identity, so that no pixel gets stuck."""
    return parameters + (parameters.clamp(0, 1) - parameters).detach()


def _ascent(images: Tensor, labels: Tensor, classifier: Classifier) -> Tensor:
    logits = classifier(images).logits
    return F.cross_entropy(logits, labels) + 0.1 * _variation(images)


def _spectrum(count: int, classifier: Classifier, random: torch.Generator) -> Tensor:
    spec = classifier.spec
    size = (count, spec.channels, spec.height, spec.width // 2 + 1, 2)
    return torch.randn(size, generator=random) * 0.01


def _from_spectrum(parameters: Tensor, classifier: Classifier) -> Tensor:
    """Sigmoid of an inverse Fourier transform whose amplitudes fall as one over frequency."""
    height, width = classifier.spec.height, classifier.spec.width
    rows, columns = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    frequency = (rows[:, None].square() + columns.square()).sqrt()
    scale = (height * width) ** 0.5 / frequency.clamp_min(1 / max(height, width))
    spectrum = torch.view_as_complex(parameters) * scale
    return torch.fft.irfft2(spectrum, s=(height, width)).sigmoid()


def _logit(images: Tensor, labels: Tensor, classifier: Classifier) -> Tensor:
    return -classifier(images).logits.gather(1, labels[:, None]).mean()


def _statistics(images: Tensor, labels: Tensor, classifier: Classifier) -> Tensor:
    """Equations 2 to 4 of DeepInversion: cross-entropy, image prior and batch-norm statistics."""
    answered, feature = _matched(images, labels, classifier)
    return answered + 2.5e-5 * _variation(images) + 3e-8 * images.norm() + feature


def _authors(images: Tensor, labels: Tensor, classifier: Classifier) -> Tensor:
    """As :func:`_statistics`, with what the authors' programme makes of the prior."""
    answered, feature = _matched(images, labels, classifier)
    down, across = images.diff(dim=2), images.diff(dim=3)
    falling = images[:, :, 1:, 1:] - images[:, :, :-1, :-1]
    rising = images[:, :, 1:, :-1] - images[:, :, :-1, 1:]
    variation = torch.stack([part.norm() for part in (down, across, falling, rising)]).sum()
    return answered + 2.5e-5 * variation + 3e-8 * images.norm() + 10 * feature


def _matched(images: Tensor, labels: Tensor, classifier: Classifier) -> tuple[Tensor, Tensor]:
    """Cross-entropy, and how far the batch norms' inputs are from their running statistics."""
    prediction, layers = classifier.observe(images)
    feature = torch.zeros(())
    for layer in layers:
        axes = [0, *range(2, layer.values.ndim)]
        variance, mean = torch.var_mean(layer.values.float(), axes)
        feature = feature + (mean - layer.mean).norm() + (variance - layer.std.square()).norm()
    return F.cross_entropy(prediction.logits, labels), feature


METHODS = {
    "pixel-ascent": Method(200, 0.05, 2, _noise, _clipped, _ascent),
    "fourier": Method(256, 0.05, 2, _spectrum, _from_spectrum, _logit),
    "deepinversion": Method(1000, 0.05, 2, _noise, _clipped, _statistics, flip=True),
    "deepinversion-authors": Method(2000, 0.05, 2, _noise, _clipped, _authors, flip=True),
}

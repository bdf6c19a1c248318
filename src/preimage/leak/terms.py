"""What training images obey and other images need not: pure functions of images and classifier.

All are lower-is-better scalars, differentiable with respect to the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from preimage.classifier import first_argument

Ask = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) to logits (B, K)."""

_Gate = nn.ReLU | nn.LeakyReLU | nn.Hardtanh


def sign_noise(images: Tensor, epsilon: float, random: torch.Generator) -> Tensor:
    """Images (B, C, H, W) moved by `epsilon` up or down in each pixel at random, cut to [0, 1].

    The perturbation of "Network Inversion and Its Applications" (arXiv 2411.17777, training-data
    reconstruction). The gradient is that of the identity, so that no pixel is stuck at an end.
    """
    signs = torch.randint(0, 2, images.shape, generator=random).to(images) * 2 - 1
    return _within(images + epsilon * signs)


def adversarial_step(ask: Ask, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Images (B, C, H, W) moved by `epsilon` where the cross-entropy rises, cut to [0, 1].

    One l-infinity step (Goodfellow et al. 2015, "Explaining and harnessing adversarial examples",
    eq. 2). The direction is a constant for the gradient.

    Args:
        ask: the classifier.
        images: (B, C, H, W) in [0, 1].
        labels: (B,).
        epsilon: length of the step, in units of pixels.
    """
    start = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(ask(start), labels), start)
    return _within(images + epsilon * gradient.sign())


def pixel_range(images: Tensor) -> Tensor:
    """Mean square of how far pixels lie outside [0, 1] (arXiv 2411.17777)."""
    return (images - images.clamp(0, 1)).square().mean()


def gradient_norm(logits: Tensor, labels: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Squared norm of the gradient of the mean cross-entropy with respect to the weights.

    Small at the end of training for what was trained on (arXiv 2411.17777).

    Args:
        logits: (B, K), made with the graph of `parameters`.
        labels: (B,).
        parameters: weights that require gradients.
    """
    gradients = torch.autograd.grad(F.cross_entropy(logits, labels), parameters, create_graph=True)
    return torch.stack([gradient.square().sum() for gradient in gradients]).sum()


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the label less the largest other one, (B,).

    Args:
        logits: (B, K).
        labels: (B,).
    """
    own = logits.gather(1, labels[:, None])[:, 0]
    mine = F.one_hot(labels, logits.shape[1]).bool()
    return own - logits.masked_fill(mine, -torch.inf).amax(1)


def stationarity(
    logits: Tensor, labels: Tensor, multipliers: Tensor, parameters: Sequence[Tensor]
) -> Tensor:
    """One less the cosine of weights and a sum of margins' gradients, mean over layers, in [0, 2].

    0 just where w = c sum_i l_i dm_i/dw for some c > 0 in every layer: the stationarity of the KKT
    conditions of margin maximisation, which gradient descent on a homogeneous network tends to
    (Haim et al. 2022, "Reconstructing training data from trained neural networks", eq. 5; the
    multi-class form is Buzaglo et al. 2023, "Deconstructing data reconstruction", eq. 6). The
    papers take the distance of the two over all weights. Its scale is the multipliers' own, and a
    distance can be made that of no images at all by multipliers near 0. Over all weights, layers
    that training hardly moved from their large first weights hide what the others have learnt.

    Args:
        logits: (B, K), made with the graph of `parameters`.
        labels: (B,).
        multipliers: (B,), at least 0.
        parameters: weights that require gradients; those of one dimension (biases, scales) have
            no say of their own unless there are no others.
    """
    layers = [part for part in parameters if part.ndim > 1] or list(parameters)
    total = (multipliers * margins(logits, labels)).sum()
    gradients = torch.autograd.grad(total, layers, create_graph=True)
    pairs = zip(layers, gradients, strict=True)
    return 1 - torch.stack([_cosine(part.detach(), gradient) for part, gradient in pairs]).mean()


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    """Of two tensors of one shape; 0 where one of them is 0."""
    norms = one.square().sum() * other.square().sum()
    return (one * other).sum() / norms.clamp_min(1e-24).sqrt()


@contextmanager
def smooth_gates(network: nn.Module, sharpness: float) -> Iterator[None]:
    """Let ReLU modules and the like have a smooth derivative, and the same values.

    sigmoid(sharpness x) for the step (Haim et al. 2022, section 4.1): the second derivative, which
    terms of gradients need, would be 0 otherwise. LeakyReLU's goes from its slope to 1; hard tanh
    and ReLU6 have a step at either end. Only modules are changed: a network that calls
    ``torch.relu`` itself keeps its steps there.

    Args:
        network: its :class:`nn.ReLU`, :class:`nn.LeakyReLU` and :class:`nn.Hardtanh` modules
            (:class:`nn.ReLU6` is one of these) are changed; afterwards they are as they were.
        sharpness: steepness of the step, above 0.
    """
    modules = [module for module in network.modules() if isinstance(module, _Gate)]
    inplace = [module.inplace for module in modules]
    handles = []
    try:
        for module in modules:
            module.inplace = False
            handles.append(module.register_forward_hook(_smooth(sharpness), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, was in zip(modules, inplace, strict=True):
            module.inplace = was


def _smooth(sharpness: float) -> Callable[..., Tensor]:
    def hook(
        module: _Gate, arguments: tuple[Any, ...], named: dict[str, Any], values: Tensor
    ) -> Tensor:
        soft = _soft(module, first_argument(arguments, named), sharpness)
        return soft + (values - soft).detach()

    return hook


def _soft(module: _Gate, inputs: Tensor, sharpness: float) -> Tensor:
    """What has the smooth derivative, up to a constant."""

    def ramp(start: float) -> Tensor:
        return F.softplus((inputs - start) * sharpness) / sharpness

    if isinstance(module, nn.LeakyReLU):
        slope = module.negative_slope
        return slope * inputs + (1 - slope) * ramp(0.0)
    if isinstance(module, nn.Hardtanh):
        return ramp(module.min_val) - ramp(module.max_val)
    return ramp(0.0)


def _within(images: Tensor) -> Tensor:
    return images + (images.clamp(0, 1) - images).detach()

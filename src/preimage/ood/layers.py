"""How usual an image is inside the network, judged by real images alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from preimage.classifier import Classifier, frozen
from preimage.drawing import chunks
from preimage.ood.mahalanobis import covariance_factor, whiten
from preimage.runtime import channels_last
from preimage.types import Layer

_FLOOR = 1e-2
"""Added to a deviation before its logarithm: a constant map is far from usual, not infinitely."""


class Look(NamedTuple):
    """What a classifier makes of images, on the CPU in float32."""

    logits: Tensor
    """(N, n + 1)."""
    features: Tensor
    """(N, D)."""
    layers: list[Tensor]
    """For each batch norm the mean and the log-deviation of every channel over the image, (N, 2 C),
    in units of its running statistics. For a classifier without batch norm the features alone."""

    def rows(self, index: slice) -> Look:
        """The same of some of the images."""
        layers = [values[index] for values in self.layers]
        return Look(self.logits[index], self.features[index], layers)


def look(classifier: Classifier, images: Tensor) -> Look:
    """Classify images, and describe what they are inside.

    Args:
        classifier: in evaluation mode, on its own device.
        images: (B, C, H, W) in [0, 1], at least one.
    """
    with frozen(classifier), torch.no_grad():
        return together([_look(classifier, images[rows]) for rows in chunks(len(images))])


def together(looks: Sequence[Look]) -> Look:
    """What was made of several batches, as of one."""
    logits, features, layers = zip(*looks, strict=True)
    columns = zip(*layers, strict=True)
    return Look(torch.cat(logits), torch.cat(features), [torch.cat(column) for column in columns])


def _look(classifier: Classifier, images: Tensor) -> Look:
    prediction, layers = classifier.observe(channels_last(images.to(classifier.mean.device)))
    described = [_describe(layer) for layer in layers] or [prediction.features]
    return Look(
        prediction.logits.float().cpu(),
        prediction.features.float().cpu(),
        [value.float().cpu() for value in described],
    )


def _describe(layer: Layer) -> Tensor:
    values = (
        layer.values.float().flatten(2)
        if layer.values.ndim > 2
        else layer.values.float()[:, :, None]
    )
    means = (values.mean(2) - layer.mean) / layer.std
    if values.shape[2] == 1:
        return means
    deviations = values.std(2, correction=0) / layer.std
    return torch.cat([means, (deviations + _FLOOR).log()], dim=1)


class LayerDistance:
    """How far from real images an image is in each layer, in standard deviations of theirs.

    The Mahalanobis distance per layer, as in Lee et al. 2018 ("A simple unified framework for
    detecting out-of-distribution samples", section 2.2), but to one mean for all classes and of
    means and deviations of the channels; its logarithm, standardised over held-out real images.
    """

    def __init__(self) -> None:
        self._layers: list[dict[str, Tensor]] = []

    def fit(self, reference: list[Tensor], held_out: list[Tensor]) -> LayerDistance:
        """Learn what is usual.

        Args:
            reference: of each layer, what :func:`look` says of real images, (N, D).
            held_out: the same of other real images, that the classifier was not trained on.
        """
        self._layers = []
        for seen, unseen in zip(reference, held_out, strict=True):
            layer = _gauge(seen)
            logs = _log_distance(layer, unseen)
            layer["centre"], layer["spread"] = logs.mean(), logs.std(correction=0).clamp_min(1e-6)
            self._layers.append(layer)
        return self

    def __call__(self, described: list[Tensor]) -> Tensor:
        """Standardised log-distances (B, L) of images that :func:`look` described."""
        columns = [
            (_log_distance(layer, values) - layer["centre"]) / layer["spread"]
            for layer, values in zip(self._layers, described, strict=True)
        ]
        return torch.stack(columns, dim=1)

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors by name, for :meth:`load_state_dict`."""
        return {
            f"{i}.{name}": value.float().contiguous()
            for i, layer in enumerate(self._layers)
            for name, value in layer.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Be as the one that gave `state`."""
        count = len({name.split(".")[0] for name in state})
        self._layers = [{} for _ in range(count)]
        for name, value in state.items():
            number, _, key = name.partition(".")
            self._layers[int(number)][key] = value


def _gauge(values: Tensor) -> dict[str, Tensor]:
    """Mean and the Cholesky factor of the covariance of (N, D)."""
    values = values.double()
    centred = values - values.mean(0)
    return {"mean": values.mean(0).float(), "factor": covariance_factor(centred).float()}


def _log_distance(layer: dict[str, Tensor], values: Tensor) -> Tensor:
    """Log of the squared Mahalanobis distance (B,)."""
    whitened = whiten(layer["factor"], values.float() - layer["mean"])
    return whitened.square().sum(1).clamp_min(1e-12).log()

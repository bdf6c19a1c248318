"""How usual an image is inside the network, judged by real images alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from preimage.classifier import Classifier, frozen
from preimage.drawing import chunks
from preimage.ood.distances import neighbour_distance
from preimage.runtime import channels_last
from preimage.types import Layer

_FLOOR = 1e-2
"""Added to a deviation before its logarithm: a constant map is far from usual, not infinitely."""
_LEAST = 1e-3
"""Added to a deviation over images: a number that hardly varies counts little."""
_KEPT = 1000
"""Real images to remember in every layer, at most: they are part of a detector's file."""
_NEIGHBOUR = 3
"""Which neighbour's distance counts."""


class Look(NamedTuple):
    """What a classifier makes of images, on the CPU in float32."""

    logits: Tensor
    """(N, n + 1)."""
    features: Tensor
    """(N, D)."""
    layers: list[Tensor]
    """For each batch norm the mean and the log-deviation of every channel over the image, (N, 2 C),
    in units of its running statistics. For a classifier without batch norm the features alone."""

    def rows(self, index: slice | Tensor) -> Look:
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
        rows = chunks(len(images), classifier.spec)  # what enters every batch norm is kept
        return together([_look(classifier, images[part]) for part in rows])


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

    In each layer the distance to a near neighbour (Sun et al. 2022, arXiv 2204.06507, who take the
    penultimate features) among real images, by the means and deviations of the channels, each in
    standard deviations; its logarithm, standardised over held-out real images.
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
            layer = _remember(seen)
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
            f"{i}.{name}": value.contiguous()
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


def _remember(values: Tensor) -> dict[str, Tensor]:
    """Of (N, D), what a distance is measured by."""
    mean, deviation = values.mean(0), values.std(0, correction=0) + _LEAST
    kept = (values[:_KEPT] - mean) / deviation
    return {"mean": mean, "deviation": deviation, "neighbours": kept.half()}


def _log_distance(layer: dict[str, Tensor], values: Tensor) -> Tensor:
    """Log of the distance to a near neighbour, (B,)."""
    standard = (values.float() - layer["mean"]) / layer["deviation"]
    distance = neighbour_distance(standard, layer["neighbours"].float(), _NEIGHBOUR)
    return distance.clamp_min(1e-6).log()

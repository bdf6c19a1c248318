"""What keeps the images of one class apart from each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from preimage.terms.prior import wide
from preimage.terms.registry import term
from preimage.types import Layer, Sample

FIRST_DISTANCE = 0.9
"""Wanted distance of two images of a class in pixels: 1 is that of two unrelated images."""
LAST_DISTANCE = 0.5
"""The same at the last batch norm, where real images of a class have become more alike."""
POOLED_DISTANCE = 0.05
"""Wanted distance of two images of a class in their channels' means over the image."""
_LEAST = 1e-4


@term("separation", layers=True)
def separation(sample: Sample) -> Tensor:
    """How much nearer than wanted the images of a class are, over pixels and inner layers.

    The distance of two images in a layer is their mean squared difference in standardised
    activations over 2: 0 for the same image, 1 on average for two images without relation. What
    is wanted falls linearly from :data:`FIRST_DISTANCE` in pixels, standardised over the batch,
    to :data:`LAST_DISTANCE` at the last batch norm. Mean over layers and pairs of
    ``max(0, log(wanted / distance))``, at least 0: once a pair is far enough apart it is left
    alone, so that this pulls against the prior no more than it has to.
    """
    # a mean is no part of a distance
    scaled = [values / layer.std.to(values.dtype) for layer, values in _by_image(sample)]
    maps = [_standardised(sample.images), *scaled]
    step = (LAST_DISTANCE - FIRST_DISTANCE) / max(1, len(maps) - 1)
    return _shortfall(sample, maps, [FIRST_DISTANCE + step * i for i in range(len(maps))])


@term("composition", layers=True)
def composition(sample: Sample) -> Tensor:
    """How much more alike than wanted the images of a class are in what they are made of.

    As :func:`separation`, of each layer's mean over the image: how much of every channel there is,
    wherever it is. Images that differ only in where things are have a distance of 0 here; real
    ones differ in light, colour and texture as well. :data:`POOLED_DISTANCE` is wanted in all
    layers. At least 0, and 0 as well for a classifier without batch norm.
    """
    pooled = [
        wide(values.flatten(1, -2)).mean(1) / layer.std
        for layer, values in _by_image(sample)
        if values.ndim > 2
    ]
    return _shortfall(sample, pooled, [POOLED_DISTANCE] * len(pooled))


@term("vendi")
def vendi(sample: Sample) -> Tensor:
    """Minus the logarithm of the order-2 Vendi score of the pixels, over all classes together.

    The score of order 2 is 1 / mean of the squared cosines of all pairs of a class, a pair of an
    image with itself included (Pasarkar & Dieng 2023, "Cousins of the Vendi Score"): a lower bound
    of the Vendi score that needs no eigenvalues. From minus log of the images a class, to 0.
    """
    unit = F.normalize(sample.images.flatten(1), dim=1)
    label = sample.condition.label
    squares = (unit @ unit.T).square()[label[:, None] == label]
    return squares.mean().clamp_min(_LEAST).log()  # images that are all black have no cosine


def _same_class(label: Tensor) -> Tensor:
    """Pairs (B, B) of two different images of one class."""
    return (label[:, None] == label) & ~torch.eye(len(label), dtype=torch.bool, device=label.device)


def _shortfall(sample: Sample, maps: Sequence[Tensor], wanted: Sequence[float]) -> Tensor:
    """Mean over maps and pairs of a class of ``max(0, log(wanted / distance))``."""
    same = _same_class(sample.condition.label)
    if not maps or not bool(same.any()):
        return sample.images.sum() * 0.0
    short = [
        F.relu((least / _distances(values).clamp_min(_LEAST)).log())[same]
        for values, least in zip(maps, wanted, strict=True)
    ]
    return torch.cat(short).mean()


def _standardised(images: Tensor) -> Tensor:
    # more contrast is no distance: the scale has a gradient too. A flat batch has none: the floor
    variance = (images - images.mean()).square().mean()
    return (images - images.mean()) / variance.clamp_min(1e-6).sqrt()


def _by_image(sample: Sample) -> Iterator[tuple[Layer, Tensor]]:
    """Each layer, and its activations by image and with channels last, (B, ..., C).

    A network may fold tokens or crops into the batch before a norm; a layer whose activations
    cannot be divided among the images is left out.
    """
    images = len(sample.images)
    for layer in sample.layers:
        values = layer.values.movedim(1, -1)
        if len(values) == images:
            yield layer, values
        elif len(values) % images == 0:
            yield layer, values.unflatten(0, (images, -1))


def _distances(values: Tensor) -> Tensor:
    """Mean squared differences over 2 of all pairs of rows, (B, B)."""
    rows, size = values.flatten(1), values[0].numel()
    if rows.dtype == torch.float16:
        rows, size = rows / size**0.5, 1  # its range is too small for a sum over a large layer
    # in the values' own precision: half of it is quick, and exact enough for a distance near 1
    products = wide(rows @ rows.T) / size
    square = products.diagonal()
    return (square[:, None] + square) / 2 - products

"""What keeps the images of one class apart from each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from preimage.terms.registry import term
from preimage.types import Sample

FIRST_DISTANCE = 0.8
"""Wanted distance of two images of a class in pixels: 1 is that of two unrelated images."""
LAST_DISTANCE = 0.4
"""The same at the last batch norm, where real images of a class have become more alike."""
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
    same = _same_class(sample.condition.label)
    maps = [_standardised(sample.images), *sample.layers]
    short = []
    for i, values in enumerate(maps):
        depth = i / max(1, len(maps) - 1)
        wanted = FIRST_DISTANCE + (LAST_DISTANCE - FIRST_DISTANCE) * depth
        short.append(F.relu((wanted / _distances(values).clamp_min(_LEAST)).log())[same])
    return torch.cat(short).mean() if bool(same.any()) else sample.images.sum() * 0.0


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


def _standardised(images: Tensor) -> Tensor:
    # a batch of one flat colour has no scale: the floor keeps its gradient finite
    return (images - images.mean()) / images.std().detach().clamp_min(1e-3)


def _distances(values: Tensor) -> Tensor:
    """Mean squared differences over 2 of all pairs of rows, (B, B)."""
    rows = values.flatten(1)
    square = rows.square().mean(1)
    return (square[:, None] + square - 2 * (rows @ rows.T) / rows.shape[1]) / 2

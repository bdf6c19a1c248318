"""Trivial differences between two image sets that would give the answer away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from preimage.data import ImageSet
from preimage.ood.figures import separation
from preimage.types import ImageSpec

GIVES_AWAY = 0.95
"""AUROC from which a statistic that knows nothing of content counts as a shortcut."""

_MOST_IMAGES = 2000
_SMALLEST, _SIZES, _LEAST = 0.75, 8, 8
"""Of softened images: the smallest share of their sides, how many shares, and the fewest pixels."""
Statistic = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) in [0, 1] to one number each."""


class Shortcut(NamedTuple):
    """A statistic that tells two sets apart."""

    statistic: str
    auroc: float
    """In [0.5, 1], whichever side is larger."""


def border(images: Tensor) -> Tensor:
    """Deviation of the outermost pixels: 0 for a constant border."""
    rows = images[:, :, [0, -1]].flatten(1)
    columns = images[:, :, :, [0, -1]].flatten(1)
    return torch.cat([rows, columns], dim=1).std(1)


def darkest(images: Tensor) -> Tensor:
    """The smallest value."""
    return images.flatten(1).amin(1)


def brightest(images: Tensor) -> Tensor:
    """The largest value."""
    return images.flatten(1).amax(1)


def saturation(images: Tensor) -> Tensor:
    """Mean difference between a pixel's largest and smallest channel: 0 for grey in colour."""
    return (images.amax(1) - images.amin(1)).mean((1, 2))


def detail(images: Tensor) -> Tensor:
    """Share of the variance at more than half of the highest frequency: low after enlarging."""
    grey = images.mean(1)
    power = torch.fft.fft2(grey - grey.mean((1, 2), keepdim=True)).abs().square()
    high = torch.fft.fftfreq(grey.shape[1]).abs()[:, None] > 0.25
    wide = torch.fft.fftfreq(grey.shape[2]).abs()[None] > 0.25
    return (power * (high | wide)).sum((1, 2)) / power.sum((1, 2)).clamp_min(1e-12)


STATISTICS: dict[str, Statistic] = {
    "constant border": border,
    "darkest value": darkest,
    "brightest value": brightest,
    "saturation": saturation,
    "fine detail": detail,
}


def find_shortcuts(known: ImageSet, unknown: ImageSet) -> list[Shortcut]:
    """Statistics that alone separate the sets with an AUROC of :data:`GIVES_AWAY` or more.

    What they find may be a trace of how a set was made ready, or be in its nature: digits do have
    a constant border. A detector's figure on such a set says little about content.
    """
    found = []
    for name, statistic in STATISTICS.items():
        values = [statistic(part.floats(slice(_MOST_IMAGES))) for part in (known, unknown)]
        auroc = separation(*values).auroc
        auroc = max(auroc, 1 - auroc)
        if auroc >= GIVES_AWAY:
            found.append(Shortcut(name, auroc))
    return found


def same_path(known: ImageSet, native: ImageSpec) -> ImageSet:
    """Known images as blurred as unknown ones that were enlarged from `native`.

    Where the unknown images were smaller, the known ones are reduced to that size and enlarged by
    the same function, so that the traces of enlarging tell nothing; else they stay as they are.
    """
    height, width = min(native.height, known.spec.height), min(native.width, known.spec.width)
    small = ImageSpec(known.spec.channels, height, width)
    return known.convert(small).convert(known.spec)


def softened(known: ImageSet, random: torch.Generator, every: int = 1) -> ImageSet:
    """Known images, some of them reduced to at least three quarters of their size and enlarged.

    As :func:`same_path`, but for unknown images of no size in particular.

    Args:
        known: any images; they are not changed.
        random: gives each its size.
        every: which are softened: the first and each so many after it; 1 is all.
    """
    images = known.images.clone()
    channels, height, width = known.spec.shape
    draw = torch.randint(_SIZES, (len(images),), generator=random)
    chosen = torch.arange(len(images)) % every == 0
    for number in range(_SIZES):
        share = _SMALLEST + (1 - _SMALLEST) * number / _SIZES
        small = ImageSpec(channels, *(max(_LEAST, round(share * side)) for side in (height, width)))
        rows = (chosen & (draw == number)).nonzero().flatten()
        images[rows] = known.subset(rows).convert(small).convert(known.spec).images
    return replace(known, images=images)

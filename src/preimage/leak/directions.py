"""What training wrote into a dense first layer, told from what was there before."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_ABOVE_NOISE = 1.02
_MOST_DIRECTIONS = 0.9
_STEP, _CLEAR_STEP, _FIRST_STEP = 2.0, 10.0, 10
"""Ratio of neighbours that is a step, one that says enough alone, and the fewest directions before
either; the largest singular values lie far apart without any."""
_EVEN_STEP = 3.0
"""One that says enough where every row and column is as large as the others."""
_DEAD = 1e-3
"""Rows and columns of less, as a share of the median, are left out there."""


def directions(weights: Tensor) -> Tensor | None:
    """What training wrote into a layer that began as noise.

    The right singular vectors before a step that noise does not have: it is what is left where
    weight decay has worn the first weights away, beside rounding. Where the steps of training were
    rounded to few digits, as in bf16, the rounding of a weight is as large as what training writes
    there, and that step shows when rows and columns are brought to one size. Without either, those
    whose singular values are above what independent noise of the size of all the others can reach:
    sigma (sqrt(H') + sqrt(D')) for a matrix (H', D') of deviation sigma (Marchenko and Pastur
    1967). Where the rest is no such noise either, those before the widest step.

    Args:
        weights: (H, D).

    Returns:
        (n, D), orthonormal, n = 0 where nothing stands out; None where nearly everything does, more
        than nine tenths of what the shape allows, with no clear step among these.
    """
    values, vectors = torch.linalg.svd(weights, full_matrices=False)[1:]
    most = int(_MOST_DIRECTIONS * len(values))
    count: int | None = _before_step(values, most, _CLEAR_STEP)
    if not count:
        evened = _evened(weights)
        if len(evened):
            return evened
        count = _above_noise(values, weights.shape, most)
    if count is None:
        count = _before_step(values, most, _STEP) or None
    return None if count is None else vectors[:count]


def _evened(weights: Tensor) -> Tensor:
    """The directions (n, D) before the first step when rows and columns are of one size.

    There rounding is noise of one size, whatever the weights that were rounded.
    """
    size, width = (weights.square().mean(side).sqrt() for side in (0, 1))
    columns, rows = ((s > _DEAD * s.median()).nonzero().flatten() for s in (size, width))
    if min(len(rows), len(columns)) <= _FIRST_STEP:
        return weights[:0]
    even = weights[rows][:, columns] / size[columns] / width[rows, None]
    values, vectors = torch.linalg.svd(even, full_matrices=False)[1:]
    steps = _steps(values, int(_MOST_DIRECTIONS * len(values)))
    wide = (steps >= _EVEN_STEP).nonzero().flatten()
    count = int(wide[0]) + _FIRST_STEP if len(wide) else 0
    found = weights.new_zeros(weights.shape[1], count)
    found[columns] = (vectors[:count] * size[columns]).T
    return torch.linalg.qr(found)[0].T


def _above_noise(values: Tensor, size: torch.Size, most: int) -> int | None:
    """How many singular values are too large for noise; None for `most` and more."""
    rest = values.square().flip(0).cumsum(0).flip(0)  # of this value and all below it
    for count in range(most):
        height, width = size[0] - count, size[1] - count
        sigma = math.sqrt(float(rest[count]) / (height * width))
        edge = sigma * (math.sqrt(height) + math.sqrt(width))
        if float(values[count]) <= _ABOVE_NOISE * edge:
            return count
    return None


def _before_step(values: Tensor, most: int, least: float) -> int:
    """How many singular values come before the widest step down; 0 where none is so wide."""
    steps = _steps(values, most)
    if not len(steps) or float(steps.max()) < least:
        return 0
    return int(steps.argmax()) + _FIRST_STEP


def _steps(values: Tensor, most: int) -> Tensor:
    """Ratios of neighbours among so many singular values, from the first that may count on."""
    above, below = values[_FIRST_STEP - 1 : most], values[_FIRST_STEP : most + 1]
    steps = above / below.clamp_min(torch.finfo(torch.float64).tiny)
    # what float32 cannot hold beside the largest is rounding, whose steps say nothing
    return steps * (above > torch.finfo(torch.float32).eps * values[0])

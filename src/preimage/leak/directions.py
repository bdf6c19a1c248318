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


def directions(weights: Tensor) -> Tensor | None:
    """What training wrote into a layer that began as noise.

    The right singular vectors before a step that noise does not have: it is what is left where
    weight decay has worn the first weights away, beside rounding. Without one, those whose singular
    values are above what independent noise of the size of all the others can reach:
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
        count = _above_noise(values, weights.shape, most)
    if count is None:
        count = _before_step(values, most, _STEP) or None
    return None if count is None else vectors[:count]


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
    above, below = values[_FIRST_STEP - 1 : most], values[_FIRST_STEP : most + 1]
    steps = above / below.clamp_min(torch.finfo(torch.float64).tiny)
    # what float32 cannot hold beside the largest is rounding, whose steps say nothing
    steps = steps * (above > torch.finfo(torch.float32).eps * values[0])
    if not len(steps) or float(steps.max()) < least:
        return 0
    return int(steps.argmax()) + _FIRST_STEP

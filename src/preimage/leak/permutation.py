"""The permutation test of every question whether training images are told from held-out ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PERMUTATIONS = 1999
"""Random orders of the images; the true one is counted beside them."""
_CHUNK = 50


def times_reached(
    truth: Tensor, statistic: Callable[[Tensor], Tensor], images: int, random: torch.Generator
) -> Tensor:
    """How many of :data:`PERMUTATIONS` random orders have a statistic of at least the truth.

    Args:
        truth: (...), the statistic of the images as they are.
        statistic: of orders (P, images), the rows of as many permutations of the images' numbers,
            (P, ...).
        images: of both groups together.
        random: of the orders.

    Returns:
        Counts in the shape of `truth`, float32.
    """
    reached = torch.zeros(truth.shape)
    for chunk in range(0, PERMUTATIONS, _CHUNK):
        size = min(_CHUNK, PERMUTATIONS - chunk)
        orders = torch.rand(size, images, generator=random).argsort(1)
        reached += (statistic(orders) >= truth - 1e-9).float().sum(0)
    return reached

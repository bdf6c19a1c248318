"""The permutation test of every question whether training images are told from held-out ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from preimage.errors import PreimageError
from preimage.runtime import stream

PERMUTATIONS = 1999
"""Random orders of the images; the true one is counted beside them."""
_CHUNK = 50


def times_reached(
    truth: Tensor,
    statistic: Callable[[Tensor], Tensor],
    images: int,
    random: torch.Generator,
    labels: Tensor | None = None,
) -> Tensor:
    """How many of :data:`PERMUTATIONS` random orders have a statistic of at least the truth.

    Args:
        truth: (...), the statistic of the images as they are.
        statistic: of orders (P, images), the rows of as many permutations of the images' numbers,
            (P, ...).
        images: of both groups together.
        random: of the orders.
        labels: (images,) classes; images change places with those of their own alone. None for
            images of one kind.

    Returns:
        Counts in the shape of `truth`, float64.
    """
    reached = torch.zeros(truth.shape, dtype=torch.float64)
    for chunk in range(0, PERMUTATIONS, _CHUNK):
        size = min(_CHUNK, PERMUTATIONS - chunk)
        orders = _orders(torch.rand(size, images, generator=random), labels)
        reached += (statistic(orders) >= truth - 1e-9).double().sum(0)
    return reached


def _orders(keys: Tensor, labels: Tensor | None) -> Tensor:
    """Of random keys (P, images) in [0, 1) as many orders, each class in its own places."""
    if labels is None:
        return keys.argsort(1)
    orders = torch.empty(keys.shape, dtype=torch.long)
    # double, since a key beside the number of a late class would have few digits left
    orders[:, labels.argsort(stable=True)] = (keys.double() + labels).argsort(1)
    return orders


def told_apart(
    values: Tensor, count: int, seed: int, labels: Tensor | None = None
) -> tuple[float, float]:
    """How well a value of each image tells training images, where it is smaller, from others.

    Args:
        values: (2 * count,) of the training images and then of as many held-out ones, without NaN.
        count: of each.
        seed: of the random divisions.
        labels: (2 * count,) classes, as many of each on both sides; each is divided by itself, so
            that what differs from class to class hides nothing. None divides all together.

    Returns:
        AUROC in [0, 1], equal values counted half (the statistic of Mann and Whitney 1947 as a
        share of all pairs), and the one-sided p-value: the chance of one at least as large if the
        two groups could change places.

    Raises:
        PreimageError: for labels that are not as many of each class on both sides.
    """
    if labels is not None:
        labels = labels.cpu()
        _check_labels(labels, count)
    _, place, ties = values.unique(return_inverse=True, return_counts=True)
    ranks = (ties.cumsum(0) - ties.double() / 2)[place]

    def smallness(orders: Tensor) -> Tensor:
        return -ranks[orders[:, :count]].sum(1)

    truth = smallness(torch.arange(len(ranks))[None])[0]
    random = stream(seed, "membership")
    reached = int(times_reached(truth, smallness, len(ranks), random, labels))
    auroc = 1 + (float(truth) / count + count / 2) / (len(ranks) - count)
    return auroc, (1 + reached) / (1 + PERMUTATIONS)


def _check_labels(labels: Tensor, count: int) -> None:
    halves = labels[:count].sort().values, labels[count:].sort().values
    if labels.shape != (2 * count,) or not torch.equal(*halves):
        raise PreimageError(
            f"expected labels ({2 * count},) with as many images of each class in both groups, "
            f"found {tuple(labels.shape)} with others; give those of preimage.leak.control.pair"
        )

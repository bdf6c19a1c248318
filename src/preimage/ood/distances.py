"""How far values are from those of real images: Mahalanobis's distance, and a neighbour's."""

from __future__ import annotations

import torch
from torch import Tensor

from preimage.runtime import stream

WIDEST = 4096
"""Features of a covariance at most."""
_RIDGE = 1e-3
"""Added to a covariance's diagonal, of its mean: numbers may be dead or depend on each other."""


def covariance_factor(centred: Tensor) -> Tensor:
    """Lower Cholesky factor (D, D) of the covariance of centred values (N, D), with a ridge."""
    covariance = centred.T @ centred / len(centred)
    covariance.diagonal().add_(covariance.diagonal().mean().clamp_min(1e-12) * _RIDGE)
    return torch.linalg.cholesky(covariance)


def whiten(factor: Tensor, values: Tensor) -> Tensor:
    """Values (B, D) in units in which the covariance is the identity."""
    return torch.linalg.solve_triangular(factor, values.T, upper=False).T


def sketch(values: Tensor) -> Tensor:
    """Values (B, D) in at most :data:`WIDEST` numbers, with distances about as they were.

    Where there are more, each is added with a random sign to a random one of so many sums (count
    sketch: Charikar, Chen & Farach-Colton 2002), since a covariance of all would not fit in memory.
    """
    size = values.shape[1]
    if size <= WIDEST:
        return values
    random = stream("sketch", size)
    place = torch.randint(WIDEST, (size,), generator=random)
    sign = torch.randint(2, (size,), generator=random).to(values) * 2 - 1
    return values.new_zeros(len(values), WIDEST).index_add_(1, place, values * sign)


class ClassDistance:
    """Squared Mahalanobis distance to the nearest class mean, under one covariance for all classes.

    After Lee et al. 2018, "A simple unified framework for detecting out-of-distribution samples",
    section 2.1.

    Args:
        means: of the classes, (K, D).
        factor: of the covariance round them, (D, D), from :func:`covariance_factor`.
    """

    def __init__(self, means: Tensor, factor: Tensor):
        self.means, self.factor = means, factor
        self._whitened_means = whiten(factor, means)

    @classmethod
    def to_means_of(cls, features: Tensor, labels: Tensor) -> ClassDistance:
        """Of features (N, D) with labels (N,); classes that do not occur have no mean."""
        present, nearest = labels.unique(return_inverse=True)
        means = torch.stack([features[labels == k].mean(0) for k in present])
        return cls(means, covariance_factor(features - means[nearest]))

    def __call__(self, features: Tensor) -> Tensor:
        """Distances (B,) of features (B, D)."""
        whitened = whiten(self.factor, features)
        return torch.cdist(whitened, self._whitened_means).amin(1).square()


def neighbour_distance(values: Tensor, known: Tensor, rank: int) -> Tensor:
    """Euclidean distance (B,) of values (B, D) to the `rank`-th nearest of `known` (N, D).

    Sun et al. 2022, "Out-of-distribution detection with deep nearest neighbors" (arXiv 2204.06507).
    """
    rank = min(rank, len(known))
    return torch.cdist(values, known).topk(rank, dim=1, largest=False).values[:, -1]

"""Whitening, as Mahalanobis's distance needs it."""

from __future__ import annotations

import torch
from torch import Tensor

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

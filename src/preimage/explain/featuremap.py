"""Penultimate features on a plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from preimage.errors import PreimageError

_DIMENSIONS = 50
_FEW = 10
_PERPLEXITY = 30.0


@dataclass(frozen=True)
class FeatureMap:
    """Where each image lies."""

    points: Tensor
    """(N, 2)."""
    rows: Tensor
    """(N,) int64, which of the given features these are: rows with NaN are left out."""
    method: Literal["t-SNE", "PCA"]


def feature_map(features: Tensor, seed: int = 0) -> FeatureMap:
    """Lay features out on a plane, near ones near each other.

    Principal components first, then t-SNE (van der Maaten & Hinton 2008) where there are enough
    points, else the first two components.

    Args:
        features: (N, D); some hundreds of rows.
        seed: of t-SNE.

    Raises:
        PreimageError: where no row is finite.
    """
    rows = torch.isfinite(features).all(1).nonzero().flatten()
    if not len(rows):
        raise PreimageError(
            "expected features to lay out, found none that are finite; check the classifier's "
            "answers on these images"
        )
    components = _components(features[rows].double())
    if len(rows) <= _FEW:
        return FeatureMap(_plane(components), rows, "PCA")
    from sklearn.manifold import TSNE  # here, because loading it takes a second

    perplexity = min(_PERPLEXITY, (len(rows) - 1) / 3)
    placed = TSNE(2, perplexity=perplexity, init="pca", random_state=seed % 2**32)
    points = torch.from_numpy(placed.fit_transform(components.float().numpy()))
    return FeatureMap(points.float(), rows, "t-SNE")


def _components(values: Tensor) -> Tensor:
    """Coordinates (N, d) along the directions of largest variance, the largest first."""
    centred = values - values.mean(0)
    left, scale, _ = torch.linalg.svd(centred, full_matrices=False)
    return (left * scale)[:, :_DIMENSIONS]


def _plane(components: Tensor) -> Tensor:
    flat = torch.zeros(len(components), 2)
    flat[:, : components.shape[1]] = components[:, :2].float()
    return flat

"""How near the features of an image lie to those of real images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from preimage.ood.distances import (
    ClassDistance,
    covariance_factor,
    neighbour_distance,
    sketch,
    whiten,
)

_KEPT = 5000
"""Real images whose features are kept, at most: they are part of a detector's file."""
_NEIGHBOUR = 12
"""Which neighbour's distance counts."""


class Nearness:
    """Two distances of an image's penultimate features from those of real images.

    The first is that to a near neighbour, on the unit sphere (Sun et al. 2022, "Out-of-distribution
    detection with deep nearest neighbors", arXiv 2204.06507). The second is how much nearer the
    image is to the mean of all than to that of a class, each in units of its own covariance (the
    relative Mahalanobis distance of Ren et al. 2021, arXiv 2106.09022): what is unusual in every
    image cancels out. The classes are those that the classifier sees.
    """

    def __init__(self) -> None:
        self._state: dict[str, Tensor] = {}

    def fit(self, features: Tensor, classes: Tensor) -> Nearness:
        """Learn what is near.

        Args:
            features: (N, D) of real images.
            classes: (N,) int64, the class of each.
        """
        features = sketch(features.double())
        mean = features.mean(0)
        to_class = ClassDistance.to_means_of(features, classes)
        state = {
            "neighbours": F.normalize(features[:_KEPT], dim=1).half(),
            "means": to_class.means.float(),
            "factor": to_class.factor.float(),
            "mean": mean.float(),
            "factor_of_all": covariance_factor(features - mean).float(),
        }
        self.load_state_dict(state)
        return self

    def __call__(self, features: Tensor) -> Tensor:
        """Both distances of `features` (B, D): (B, 2) float64, the neighbour's first."""
        known, features = self._known, sketch(features.double())
        unit = F.normalize(features, dim=1)
        nearest = neighbour_distance(unit, known["neighbours"], _NEIGHBOUR)
        to_all = whiten(known["factor_of_all"], features - known["mean"]).square().sum(1)
        return torch.stack([nearest, self._to_class(features) - to_all], dim=1)

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors by name, for :meth:`load_state_dict`."""
        return {name: value.contiguous() for name, value in self._state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Be as the one that gave `state`."""
        self._state = dict(state)
        self._known = {name: value.double() for name, value in state.items()}
        self._to_class = ClassDistance(self._known["means"], self._known["factor"])

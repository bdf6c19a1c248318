"""Where known images end, from the scores of some of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from preimage.runtime import stream

TPR = 0.99
"""Share of known images to let through, where none is asked for."""

_SURE = 0.9
"""Share of the redraws of films in which a threshold lets through what was asked for."""
_REDRAWS = 400


class HeldOut(NamedTuple):
    """What scores make of held-out images of the classes: thresholds for any share come of it."""

    scores: Mapping[str, Tensor]
    """By the name of the score, (N,) each, larger is more out-of-distribution."""
    films: Tensor | None
    """(N,) int64, the same number for frames of one film; None where each image is one of its
    own."""

    def thresholds(self, tpr: float) -> dict[str, float]:
        """Of each score, where the share `tpr` in (0, 1] is let through."""
        return {name: self._threshold(scores, tpr) for name, scores in self.scores.items()}

    def _threshold(self, scores: Tensor, tpr: float) -> float:
        if self.films is None:
            return float(threshold_at(scores, tpr))
        return float(threshold_of_films(scores, self.films, tpr))


def threshold_at(scores: Tensor, tpr: float) -> Tensor:
    """The lowest score that at least a share `tpr` of `scores` (N,) does not exceed."""
    rank = max(1, -int(-tpr * len(scores) // 1))
    return scores.sort().values[rank - 1]


def threshold_of_films(scores: Tensor, film: Tensor, tpr: float) -> Tensor:
    """As :func:`threshold_at`, for images of which many are frames of one film.

    New images will come from other films, and a few films say little of those, however many frames
    they have: often it is one or two that the highest scores are of. So whole films are drawn again
    with replacement (the bootstrap by clusters), and the threshold is one that lets the share
    through in nine of ten such draws.

    Args:
        scores: (N,), larger is more out-of-distribution.
        film: (N,) int64, the same number for frames of one film.
        tpr: share to let through, in (0, 1].
    """
    _, film = film.unique(return_inverse=True)
    count = int(film.max()) + 1
    random = stream("films drawn again", count)
    drawn = torch.randint(count, (_REDRAWS, count), generator=random)
    times = torch.zeros(_REDRAWS, count).scatter_add_(1, drawn, torch.ones(_REDRAWS, count))
    order = scores.argsort()
    passed = times[:, film[order]].double().cumsum(1)
    # a hair less, for sums that are rounded
    enough = passed >= (tpr - 1e-9) * passed[:, -1:]
    first = scores[order][enough.int().argmax(1)]
    return threshold_at(first, _SURE)

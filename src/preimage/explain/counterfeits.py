"""Inversions that the classifier is sure of and an independent one is not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from preimage.data import ImageSet

CONFIDENT = 0.99
"""A probability above this is a confident answer."""
UNSURE = 0.5
"""An evaluator that gives its own best class less than this is unsure."""

_CHUNK = 256


@dataclass(frozen=True)
class Counterfeits:
    """How many of some inversions are confident counterfeits."""

    samples: int
    """Inversions that both classifiers gave a finite answer on."""
    confident: int
    """Of these, those that the target is sure of, and puts in the class asked for."""
    rows: Tensor
    """(n,) int64, the counterfeits among all that were given, the most striking first."""
    left_out: int
    """Inversions with an answer that is not finite."""

    @property
    def share(self) -> float | None:
        """Of the confident ones; None where there are none."""
        return len(self.rows) / self.confident if self.confident else None


def counterfeits(target: Tensor, evaluator: Tensor, labels: Tensor) -> Counterfeits:
    """Count them: the target is sure of the class, the evaluator says another or is unsure.

    Args:
        target: the target's logits (N, K).
        evaluator: the independent classifier's logits (N, K).
        labels: (N,) int64, the classes asked for.
    """
    finite = torch.isfinite(target).all(1) & torch.isfinite(evaluator).all(1)
    own = target.softmax(1).gather(1, labels[:, None])[:, 0]
    said = evaluator.softmax(1)
    confident = finite & (own > CONFIDENT)
    doubted = (evaluator.argmax(1) != labels) | (said.amax(1) < UNSURE)
    rows = (confident & doubted).nonzero().flatten()
    belief = said.gather(1, labels[:, None])[:, 0]
    return Counterfeits(
        samples=int(finite.sum()),
        confident=int(confident.sum()),
        rows=rows[belief[rows].argsort(stable=True)],
        left_out=int((~finite).sum()),
    )


def nearest_real(images: Tensor, labels: Tensor, real: ImageSet) -> Tensor:
    """Row (N,) of the nearest real image of each one's class, by L2 distance of pixels; -1 if none.

    Args:
        images: (N, C, H, W) in [0, 1].
        labels: (N,) int64.
        real: in the same shape.
    """
    found = torch.full((len(images),), -1)
    for k in labels.unique():
        mine = (labels == k).nonzero().flatten()
        theirs = (real.labels == k).nonzero().flatten()
        if not len(theirs):
            continue
        candidates = real.floats(theirs).flatten(1)
        for rows in mine.split(_CHUNK):
            distance = torch.cdist(images[rows].flatten(1), candidates)
            found[rows] = theirs[distance.argmin(1)]
    return found

"""Scores of how far out-of-distribution an image is.

All are larger for what is more out-of-distribution, the orientation of pytorch-ood. A new score is
a function with ``@score("name")``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from preimage.errors import PreimageError


class Evidence(NamedTuple):
    """What a detector sees of a batch: its logits, and three views of it, each standardised over
    real images.
    """

    logits: Tensor
    """(B, n + 1), garbage last."""
    answer: Tensor
    """(B,), how little the logits speak for a known class: garbage's log-odds and the energy."""
    features: Tensor
    """(B,), how far its features are from those of real images."""
    layers: Tensor
    """(B,), how unlike real images it is in the layers before."""


Score = Callable[[Evidence], Tensor]
"""Evidence to scores (B,)."""

_SCORES: dict[str, Score] = {}


def score(name: str) -> Callable[[Score], Score]:
    """Register a score under `name`."""

    def add(function: Score) -> Score:
        _SCORES[name] = function
        return function

    return add


def score_names() -> tuple[str, ...]:
    """Names of all scores."""
    return tuple(_SCORES)


def find_score(name: str) -> Score:
    """The score of that name.

    Raises:
        PreimageError: where there is none.
    """
    if name not in _SCORES:
        raise PreimageError(
            f"expected a score out of {', '.join(_SCORES)}, found '{name}'; choose one of those"
        )
    return _SCORES[name]


def judged(name: str, evidence: Evidence) -> Tensor:
    """The score of that name, (B,); infinite for an image that the classifier answers with NaN.

    Nothing is less like a known image than one that the classifier has no answer to.

    Raises:
        PreimageError: where there is no such score.
    """
    return unanswered(find_score(name)(evidence))


def unanswered(scores: Tensor) -> Tensor:
    """The scores with infinity in place of NaN."""
    return scores.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)


def uncertainty_estimate(probabilities: Tensor) -> Tensor:
    """How far a distribution is from certainty in its own largest class.

    UE(p) = 1 - sum_i (p_i - 1/K)^2 / sum_i (delta_ik - 1/K)^2 with k = argmax p, the measure of
    "Network Inversion and Its Applications" (arXiv 2411.17777, section on out-of-distribution
    detection).

    Args:
        probabilities: (B, K) with K at least 2, rows that sum to 1.

    Returns:
        (B,): 1 for the uniform distribution, 0 for one-hot.
    """
    classes = probabilities.shape[1]
    spread = (probabilities - 1 / classes).square().sum(1)
    return 1 - spread / (1 - 1 / classes)


def garbage_odds(logits: Tensor) -> Tensor:
    """Log-odds of garbage, (B,): above 0 where it has more than half of the probability.

    The same order as the probability itself, which float32 rounds to 0 and 1 where these still
    differ.

    Args:
        logits: (B, n + 1), garbage last.
    """
    return logits[:, -1] + known_energy(logits)


def known_energy(logits: Tensor) -> Tensor:
    """Energy (Liu et al. 2020, arXiv 2010.03759) of the n known classes alone, (B,).

    Args:
        logits: (B, n + 1), garbage last.
    """
    return -logits[:, :-1].logsumexp(1)


@score("garbage")
def garbage_score(evidence: Evidence) -> Tensor:
    """Log-odds of garbage, (B,); see :func:`garbage_odds`."""
    return garbage_odds(evidence.logits)


@score("uncertainty")
def uncertainty_score(evidence: Evidence) -> Tensor:
    """The paper's uncertainty over all n + 1 classes, (B,) in [0, 1].

    An image that is surely garbage is not uncertain: alone this finds only what lies between.
    """
    return uncertainty_estimate(evidence.logits.softmax(1))


@score("features")
def features_score(evidence: Evidence) -> Tensor:
    """Distance of the features from those of real images, (B,), in standard deviations."""
    return evidence.features


@score("layers")
def layers_score(evidence: Evidence) -> Tensor:
    """Mean distance from real images over the layers, (B,), in their standard deviations."""
    return evidence.layers


@score("combined")
def combined_score(evidence: Evidence) -> Tensor:
    """The three views together, (B,): each in standard deviations of real images, added.

    The answer tells what lies near no class, the features what lies near no real image of one, the
    layers what is unlike any real image. They err on different images.
    """
    return evidence.answer + evidence.features + evidence.layers

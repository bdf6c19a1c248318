"""Which inversions stay out of the garbage class: each rule a function with ``@rule("name")``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from preimage.errors import PreimageError
from preimage.ood.distances import ClassDistance
from preimage.ood.scores import uncertainty_estimate
from preimage.types import Prediction

CERTAIN = 0.5
"""Uncertainty below which an inversion is certain."""
NATURAL = 0.95
"""Share of real images that count as natural."""


class Known(NamedTuple):
    """What the present classifier says of real images of its classes."""

    features: Tensor
    """(N, D)."""
    labels: Tensor
    """(N,)."""


Allowed = Callable[[Prediction], Tensor]
"""The classifier's answer on inversions to (B,) bool on the CPU: True may be garbage."""
Rule = Callable[[Known], Allowed]
"""What it says of real images decides; asked once a round."""

_RULES: dict[str, Rule] = {}


def rule(name: str) -> Callable[[Rule], Rule]:
    """Register a rule under `name`."""

    def add(function: Rule) -> Rule:
        _RULES[name] = function
        return function

    return add


def rule_names() -> tuple[str, ...]:
    """Names of all rules."""
    return tuple(_RULES)


def find_rule(name: str) -> Rule:
    """The rule of that name.

    Raises:
        PreimageError: where there is none.
    """
    if name not in _RULES:
        raise PreimageError(
            f"expected an exclusion out of {', '.join(_RULES)}, found '{name}'; choose one of those"
        )
    return _RULES[name]


@rule("none")
def all_of_them(known: Known) -> Allowed:
    """Every inversion may become garbage, as in the paper."""
    return lambda inversions: torch.ones(len(inversions.logits), dtype=torch.bool)


@rule("certain")
def uncertain_only(known: Known) -> Allowed:
    """Only what the classifier is unsure of: above :data:`CERTAIN`, as in TIE (2512.00229)."""
    return lambda found: (uncertainty_estimate(found.logits.softmax(1)) > CERTAIN).cpu()


@rule("natural")
def unnatural_only(known: Known) -> Allowed:
    """Only what lies farther from every class than nearly all real images do.

    The distance is :class:`ClassDistance`; far is beyond :data:`NATURAL` of the real images.
    """
    real = known.features.double()
    distance = ClassDistance.to_means_of(real, known.labels)
    limit = distance(real).quantile(NATURAL)
    return lambda inversions: (distance(inversions.features.to(real)) > limit).cpu()

"""Every figure of an audit: what kind it is, between which bounds, and which way is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from preimage.config import BASELINES

Better = Literal["larger", "smaller"]


@dataclass(frozen=True)
class Number:
    """A measured quantity between `low` and `high`, both possible."""

    low: float
    high: float
    better: Better | None = None
    """None where neither direction is good or bad by itself."""
    whole: bool = False
    """Whether it counts something, so that it can equal a value."""
    interval: str | None = None
    """The figure of the section that holds its interval of 95 %, two numbers."""


@dataclass(frozen=True)
class Word:
    """A name, or one of a few answers."""

    choices: tuple[str, ...] = ()
    """All that it can be; empty where any name is possible."""
    ranked: bool = False
    """Whether the choices go from the best to the worst."""


@dataclass(frozen=True)
class Other:
    """A sentence, a list or a map: to be read, not compared."""


Figure = Number | Word | Other


def _share(better: Better | None = None, least: float = 0.0, interval: str | None = None) -> Number:
    return Number(least, 1.0, better, interval=interval)


def _amount(better: Better | None = None) -> Number:
    return Number(0.0, math.inf, better)


def _count(better: Better | None = None) -> Number:
    return Number(0.0, math.inf, better, whole=True)


_VENDI = Number(1.0, math.inf)
"""An effective number of images."""
OWN_SCORE = "msp"
"""The classifier's own confidence, which the others are baselines beside."""
MOST_CLASSES = 20
"""Shown on a page."""
LEAST_P = 0.0005
"""Of a test by random divisions; that of a verdict, the smaller of two, counts double."""
VERDICTS = ("no evidence of a leak", "can't tell", "leaks")

SECTIONS: dict[str, dict[str, Figure]] = {
    "task": {
        "accuracy": _share("larger"),
        "balanced_accuracy": _share("larger"),
        "balanced_low": _share("larger"),
        "balanced_high": _share("larger"),
        "guessing": _share(),
        "images": _count(),
        "works": Word(("yes", "can't tell", "no"), ranked=True),
    },
    "accept": {
        "inversion_accuracy": _share(),
        "evaluator_accuracy": _share(),
        "confidence": _share(),
        "vendi_pixel": _VENDI,
        "vendi_pixel_real": _VENDI,
        "vendi_feature": _VENDI,
        "vendi_feature_real": _VENDI,
        "precision": _share(),
        "coverage": _share("larger"),
        "steps": _count(),
        "counterfeit_share": _share("smaller", interval="counterfeit_interval"),
        "counterfeit_interval": Other(),
        "counterfeit_samples": _count(),
        "noise_share": _share("smaller", interval="noise_interval"),
        "noise_interval": Other(),
        "noise_images": _count(),
        "noise_by_set": Other(),
        "boundary_reached": _share(),
        "boundary_distance": _amount("larger"),
        "classes_shown": Number(0.0, MOST_CLASSES, whole=True),
    },
    "ood": {
        "known": Word(),
        "sets": Other(),
        "images_each": _count(),
        "score": Other(),
        "auroc": _share("larger"),
        "auroc_lowest": _share("larger"),
        "fpr95": _share("smaller"),
        "best_baseline": Word(tuple(name for name in BASELINES if name != OWN_SCORE)),
        "best_baseline_auroc": _share("larger"),
        "best_baseline_fpr95": _share("smaller"),
        "hardened_auroc": _share("larger"),
        "hardened_fpr95": _share("smaller"),
        "hardened_accuracy": _share("larger"),
        "plain_accuracy": _share("larger"),
    },
    "leak": {
        "verdict": Word(VERDICTS, ranked=True),
        "reason": Other(),
        "p_value": _share("larger", least=2 * LEAST_P),
        "effect": Number(-math.inf, math.inf, "smaller"),
        "interval": Other(),
        "recovered": _count("smaller"),
        "recovered_control": _count(),
        "copied": _count("smaller"),
        "copied_control": _count(),
        "unmixed": _count("smaller"),
        "ssim_train": Number(-1.0, 1.0, "smaller"),
        "ssim_control": Number(-1.0, 1.0),
        "first_layer": Word(("dense", "other")),
        "membership_auroc": _share("smaller"),
        "membership_p_value": _share("larger", least=LEAST_P),
        "membership_loss_auroc": _share("smaller"),
        "accuracy": _share("larger"),
        "images_each": _count(),
        "reconstructions": _count(),
        "steps": _count(),
    },
}
"""Sections of the record, the classifier's own task and one a question, and the figures in each."""

GIVEN: dict[str, Figure] = {
    "model": Word(),
    "data": Word(),
    "classes": _count(),
    "seed": _count(),
    "budget_s": _amount(),
    "seconds": _amount("smaller"),
}
"""What was given, and how long it took; these stand beside the sections."""


def figures() -> dict[str, Figure]:
    """All of them by name, such as "seed" and "ood.auroc"."""
    inner = {
        f"{section}.{name}": figure
        for section, own in SECTIONS.items()
        for name, figure in own.items()
    }
    return {**GIVEN, **inner}

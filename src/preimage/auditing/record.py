"""The audit's JSON file: every key is always there, null where nothing was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

FORMAT = "preimage-audit-1"

SECTIONS: dict[str, tuple[str, ...]] = {
    "accept": (
        *("inversion_accuracy", "evaluator_accuracy", "confidence"),
        *("vendi_pixel", "vendi_pixel_real", "vendi_feature", "vendi_feature_real"),
        *("precision", "coverage", "steps"),
        *("counterfeit_share", "counterfeit_interval", "counterfeit_samples"),
        *("noise_share", "noise_interval", "noise_images", "noise_by_set"),
        *("boundary_reached", "boundary_distance", "classes_shown"),
    ),
    "ood": (
        *("known", "sets", "images_each", "score", "auroc", "auroc_lowest", "fpr95"),
        *("best_baseline", "best_baseline_auroc", "best_baseline_fpr95"),
        *("hardened_auroc", "hardened_fpr95", "hardened_accuracy", "plain_accuracy"),
    ),
    "leak": (
        *("verdict", "reason", "p_value", "effect", "interval", "recovered", "recovered_control"),
        *("ssim_train", "ssim_control", "images_each", "reconstructions", "steps"),
    ),
}
"""Sections of the record, one a question, and the figures in each."""


def empty_sections() -> dict[str, dict[str, Any]]:
    """Every section with nothing measured."""
    return {name: dict.fromkeys(keys) for name, keys in SECTIONS.items()}


def fill(section: dict[str, Any], figures: Mapping[str, Any]) -> None:
    """Put a part's figures into its section; NaN counts as not measured.

    Raises:
        KeyError: for a figure that the section does not know, which is a mistake in a part.
    """
    for name, value in figures.items():
        if name not in section:
            raise KeyError(name)
        lost = isinstance(value, float) and not math.isfinite(value)
        section[name] = None if lost else value

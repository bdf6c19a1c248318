"""The audit's JSON file: every key is always there, null where nothing was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from preimage.auditing.figures import SECTIONS

FORMAT = "preimage-audit-2"


def empty_sections() -> dict[str, dict[str, Any]]:
    """Every section with nothing measured."""
    return {name: dict.fromkeys(own) for name, own in SECTIONS.items()}


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


def value_of(record: Mapping[str, Any], name: str) -> Any:
    """A figure by its name, such as "ood.auroc"; None where it was not measured.

    An audit of an earlier version may lack whole sections.
    """
    section, _, own = name.rpartition(".")
    return (record.get(section, {}) if section else record).get(own)


def told(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a person reads: whether it does its task, where that is recorded, and the answers."""
    first = record.get("premise")
    return [*([first] if first else []), *record["answers"]]

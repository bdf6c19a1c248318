"""Two audits, or two reconstructions, side by side. No torch here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from preimage.auditing.figures import GIVEN, SECTIONS, Number, Other, Word, figures
from preimage.auditing.markdown import cell
from preimage.auditing.reconstructed import read_reconstruction
from preimage.auditing.record import FORMAT, value_of
from preimage.errors import PreimageError

RECORD_FILE = "audit.json"
Change = Literal["better", "worse", "changed", "within chance"]

_ANY_FORMAT = FORMAT.rstrip("0123456789")
_SETTINGS = (
    *("budget_s", "seed", "data", "data_split", "heldout", "evaluator", "image", "most"),
    *("carrier", "start"),
)
_CONTENTS, _VERSIONS = "contents", "versions"
_PACKAGES = ("preimage", "torch")
"""Whose other versions may give other figures of the same classifier."""


@dataclass(frozen=True)
class Difference:
    """A figure that two audits have in common and that differs."""

    name: str
    first: Any
    second: Any
    change: Change


@dataclass(frozen=True)
class Comparison:
    """Of two audits."""

    models: tuple[str, str]
    differences: tuple[Difference, ...]
    only_in_one: tuple[str, ...]
    """Figures that one of the two did not measure."""
    warnings: tuple[str, ...]


def read_audit(source: str) -> dict[str, Any]:
    """The record of an audit, from its run folder or its audit.json.

    A run folder of a reconstruction stands for the audit that measured nothing else.

    Raises:
        PreimageError: where there is none, or one of another version, or a damaged one.
    """
    path = Path(source)
    reconstruction = read_reconstruction(path)
    if reconstruction is not None:
        return reconstruction
    file = path / RECORD_FILE if path.is_dir() else path
    record: Any = None
    with suppress(OSError, ValueError):
        record = json.loads(file.read_text(encoding="utf-8"))
    found = str(record.get("format")) if isinstance(record, dict) else ""
    if found.startswith(_ANY_FORMAT) and found != FORMAT:
        raise PreimageError(
            f"expected an audit of this version ({FORMAT}), found {found} in '{source}', whose "
            "figures mean other things; make the audit again"
        )
    if found != FORMAT:
        raise PreimageError(
            f"expected an audit, found none in '{source}'; give the run folder of a finished "
            "`preimage audit` or `preimage reconstruct`, or an audit.json"
        )
    if not _is_whole(record):
        raise PreimageError(
            f"expected a whole audit, found a damaged one in '{source}'; restore it, or make the "
            "audit again"
        )
    return dict(record)


def _is_whole(record: dict[str, Any]) -> bool:
    named = isinstance(record.get("classes"), int) and "model" in record
    # one of an earlier version may lack some of these
    maps = (*SECTIONS, _CONTENTS, _VERSIONS)
    return named and all(isinstance(record.get(name, {}), dict) for name in maps)


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> Comparison:
    """What differs between two audits, and in which direction.

    Raises:
        PreimageError: for classifiers of different class counts.
    """
    if first["classes"] != second["classes"]:
        raise PreimageError(
            f"expected audits of classifiers with as many classes, found {first['classes']} and "
            f"{second['classes']}; compare two of one task"
        )
    here, there = _figures(first, second)
    both = [name for name in here if here[name] is not None and there[name] is not None]
    one = [name for name in here if (here[name] is None) != (there[name] is None)]
    return Comparison(
        (str(first["model"]), str(second["model"])),
        tuple(
            Difference(name, here[name], there[name], _change(name, first, second))
            for name in both
            if not _same(here[name], there[name])
        ),
        tuple(one),
        tuple(_other_settings(first, second)),
    )


def _other_settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    """What makes figures of the two mean different things, a sentence each."""
    for name in _SETTINGS:
        if first.get(name) != second.get(name):
            text = f"the two audits differ in {name.removesuffix('_s').replace('_', ' ')}"
            yield f"{text}: {first.get(name)} and {second.get(name)}"
    for name, *_ in _unlike(_CONTENTS, first, second):
        yield f"the two audits differ in the content of {name}"
    for name, here, there in _unlike(_VERSIONS, first, second):
        if name in _PACKAGES:
            yield f"the two audits differ in the version of {name}: {here} and {there}"
    sets = [sorted(value_of(record, "ood.sets") or {}) for record in (first, second)]
    if sets[0] != sets[1] and all(sets):
        different = ", ".join(sorted(set(sets[0]) ^ set(sets[1])))
        yield f"the two audits differ in unknown images: only one of them has {different}"


def _unlike(
    part: str, first: Mapping[str, Any], second: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Name and values of what this map of both records has, where the values differ."""
    here, there = (record.get(part) or {} for record in (first, second))
    for name in sorted(here.keys() & there.keys()):
        if here[name] != there[name]:
            yield name, here[name], there[name]


def comparison_markdown(found: Comparison) -> str:
    """A table of the differences."""
    first, second = found.models
    lines = [
        f"# {cell(first)} and {cell(second)}",
        "",
        f"| figure | first ({cell(first)}) | second ({cell(second)}) | |",
        "|---|---|---|---|",
        *(
            f"| {d.name} | {cell(show(d.first))} | {cell(show(d.second))} | {d.change} |"
            for d in found.differences
        ),
        "",
        *(f"- Note: {cell(warning)}." for warning in found.warnings),
        *(f"- Only one of the two measured {name}." for name in found.only_in_one),
    ]
    return "\n".join(lines).rstrip() + "\n"


def show(value: Any) -> str:
    """A figure as it is to be read."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _figures(*records: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Numbers and words of the three sections; lists and maps say too little side by side."""
    shown = (n for n, kind in figures().items() if n not in GIVEN and not isinstance(kind, Other))
    names = list(shown)
    return [{name: value_of(record, name) for name in names} for record in records]


def _same(first: Any, second: Any) -> bool:
    """Whether nobody could see a difference."""
    return show(first) == show(second)


def _change(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> Change:
    kind, first, second = figures()[name], value_of(one, name), value_of(other, name)
    if isinstance(kind, Number) and kind.interval is not None:
        section = name.rpartition(".")[0]
        bounds = [value_of(record, f"{section}.{kind.interval}") for record in (one, other)]
        if all(bounds) and max(b[0] for b in bounds) <= min(b[1] for b in bounds):
            return "within chance"
    if isinstance(kind, Word) and kind.ranked and {first, second} <= set(kind.choices):
        return "better" if kind.choices.index(second) < kind.choices.index(first) else "worse"
    if isinstance(kind, Number) and kind.better is not None:
        return "better" if (second > first) == (kind.better == "larger") else "worse"
    return "changed"

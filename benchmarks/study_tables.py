"""The tables of docs/study.md that say why: of layers, of coverage, and of students."""

from __future__ import annotations

from collections.abc import Callable

from coverage import SOURCES
from formats import by_dataset, deviated, markdown, pivot, title_of
from preimage.records import Record, summarise


def layers_table(records: list[Record]) -> str:
    """A row a data set and source: the distance within a class at every layer."""
    if not records:
        return ""
    depth = max(record["layer"] for record in records)
    cells = [
        ((title_of(record), record["source"]), record["layer"], f"{record['same_class']:.2f}")
        for record in sorted(records, key=by_dataset)
    ]
    rows = pivot(cells, range(1, depth + 1), "")
    return markdown(["data set", "images", *map(str, range(1, depth + 1))], rows)


def coverage_table(records: list[Record]) -> str:
    """A row for what is compared, two columns a data set: precision and coverage."""
    groups = summarise(sorted(records, key=by_dataset), ["dataset", "images"], _SHARES)
    at = {(title_of(group), group["images"]): group for group in groups}
    titles = list(dict.fromkeys(name for name, _ in at))
    rows = []
    for images in SOURCES:
        cells = [images]
        for name in titles:
            group = at.get((name, images))
            cells += [deviated(group[f], group["n"], 100, 1) if group else "" for f in _SHARES]
        rows.append(cells)
    columns = [f"{name}, {share}, %" for name in titles for share in _SHARES]
    return markdown(["images", *columns], rows) if records else ""


def student_table(records: list[Record]) -> str:
    """A row a data set and what was learnt from, a column a number of steps."""
    keys = ["dataset", "images", "steps"]
    groups = summarise(sorted(records, key=by_dataset), keys, ["student_accuracy"])
    steps = sorted({record["steps"] for record in records})
    cells = [
        (
            (title_of(group), group["images"]),
            group["steps"],
            deviated(group["student_accuracy"], group["n"], 100),
        )
        for group in groups
    ]
    rows = pivot(cells, steps, "not measured")
    columns = [f"{count:,} steps" for count in steps]
    return markdown(["data set", "learns from", *columns], rows) if records else ""


_SHARES = ["precision", "coverage"]


TABLES: dict[str, Callable[[list[Record]], str]] = {
    "layers": layers_table,
    "coverage": coverage_table,
    "student": student_table,
}
"""By the name of the block and of the file of results."""

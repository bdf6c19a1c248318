"""Write the tables in README.md and docs/*.md anew from results/*.json.

python benchmarks/tables.py           # write
python benchmarks/tables.py --check   # exit 1 if one is out of date
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import audit_tables
import leak_tables
import ood_tables
import study_tables
from ablation import VARIANTS
from formats import TITLES, by_dataset, deviated, markdown, rank, title_of
from preimage.config import PRESETS
from preimage.files import write_atomic
from preimage.records import Figure, Record, read_records, summarise

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/study.md", "docs/ood.md", "docs/leak.md")
_BLOCK = re.compile(r"(<!-- table:([\w-]+) -->\n).*?(<!-- /table:\2 -->)", re.DOTALL)
_SETTINGS = ("preset", "conditioning", "dropout")


def main() -> None:
    """Rewrite or check the documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for path in (ROOT / name for name in DOCUMENTS):
        if not path.is_file():
            continue
        before = path.read_text(encoding="utf-8")
        after = rewrite(before, ROOT / "results")
        if check and after != before:
            sys.exit(f"{path.name} is out of date: run python benchmarks/tables.py")
        if after != before:
            write_atomic(path, after.encode())


def rewrite(text: str, results: Path) -> str:
    """`text` with every marked block made from the results folder."""

    def block(match: re.Match[str]) -> str:
        file, table = TABLES[match[2]]
        made = table(_records(results, file))
        return f"{match[1]}{made or '*not measured yet*'}\n{match[3]}"

    return _BLOCK.sub(block, text)


def _records(results: Path, name: str) -> list[Record]:
    """Of one file; of a folder one from each file, in the order of the data sets."""
    folder = results / name
    if not folder.is_dir():
        return read_records(results / f"{name}.json")
    files = sorted(folder.glob("*.json"), key=lambda file: (rank(file.stem), file.stem))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


_PERCENT = {
    "inversion_accuracy": "inversion accuracy, %",
    "evaluator_accuracy": "accuracy by the independent evaluator, %",
    "confidence": "mean confidence, %",
    "precision": "precision, %",
    "coverage": "coverage, %",
    "student_accuracy": "student's accuracy on real test images, %",
}
_PLAIN = {
    "vendi_pixel": "Vendi score per class, pixels",
    "vendi_pixel_share": "the same over that of real images",
    "vendi_feature": "Vendi score per class, evaluator's features",
    "vendi_feature_share": "the same over that of real images",
    "seconds": "seconds to invert",
}
_ORDER = (
    *("inversion_accuracy", "evaluator_accuracy", "confidence"),
    *("vendi_pixel", "vendi_pixel_share", "vendi_feature", "vendi_feature_share"),
    *("precision", "coverage", "student_accuracy", "seconds"),
)


def inversion_table(records: list[Record]) -> str:
    """A column a data set: mean and deviation over the seeds."""
    # other settings are another experiment: never averaged with these
    groups = summarise(map(with_shares, records), ["dataset", *_SETTINGS], _ORDER)
    groups.sort(key=by_dataset)
    rows = []
    for field in _ORDER:
        if all(group[field].mean is None for group in groups):
            continue
        cells = [deviated(group[field], group["n"], _scale(field)) for group in groups]
        rows.append([{**_PERCENT, **_PLAIN}[field], *cells])
    rows.append(["seeds", *(str(group["n"]) for group in groups)])
    return markdown(["", *_headings(groups)], rows) if groups else ""


_GOALS: dict[str, dict[str, tuple[float, float, float, float]]] = {
    "natural": {
        "inversion_accuracy": (0.995, 0.995, 0.99, 0.99),
        "evaluator_accuracy": (0.95, 0.9, 0.85, 0.85),
        "vendi_pixel_share": (1.0, 1.0, 0.7, 0.7),
        "vendi_feature_share": (1.0, 1.0, 0.8, 0.8),
        "coverage": (0.5, 0.4, 0.3, 0.3),
        "student_accuracy": (0.98, 0.85, 0.8, 0.8),
    },
    "explore": {
        "inversion_accuracy": (0.99, 0.99, 0.99, 0.99),
        "vendi_pixel_share": (2.0, 2.0, 2.0, 2.0),
    },
}
"""What a preset is to reach at the same time, in the order of :data:`TITLES`."""


def goals_table(records: list[Record], preset: str) -> str:
    """A row a figure: what a preset reached of its goal, and the goal."""
    mine = [with_shares(record) for record in records if record["preset"] == preset]
    groups = summarise(mine, ["dataset"], list(_GOALS[preset]))
    order = list(TITLES)
    groups = sorted((g for g in groups if g["dataset"] in order[:4]), key=by_dataset)
    rows = []
    for field, goals in _GOALS[preset].items():
        cells = [_reached(group[field], goals[by_dataset(group)], field) for group in groups]
        rows.append([_COMPARED[field], *cells])
    return markdown(["", *map(title_of, groups)], rows) if groups else ""


def _reached(figure: Figure, goal: float, field: str) -> str:
    if figure.mean is None:
        return "not measured"
    scale = _scale(field)
    sign = "reached" if figure.mean >= goal else "**short**"
    return f"{figure.mean * scale:.2f} of {goal * scale:g}, {sign}"


def of_preset(preset: str) -> Callable[[list[Record]], str]:
    """The inversion table of one preset."""
    return lambda records: inversion_table([r for r in records if r["preset"] == preset])


def with_shares(record: Record) -> Record:
    """The record with its Vendi scores over those of real images."""
    shares = {}
    for name in ("vendi_pixel", "vendi_feature"):
        score, real = record.get(name), record.get(f"{name}_real")
        shares[f"{name}_share"] = None if score is None or not real else score / real
    return {**record, **shares}


def _scale(field: str) -> int:
    return 100 if field in _PERCENT else 1


_COMPARED = {
    "inversion_accuracy": "inversion accuracy, %",
    "evaluator_accuracy": "evaluator, %",
    "vendi_pixel_share": "Vendi, pixels, of real",
    "vendi_feature_share": "Vendi, features, of real",
    "coverage": "coverage, %",
    "student_accuracy": "student, %",
}


def ablation_table(records: list[Record], dataset: str, chosen: Callable[[str], bool]) -> str:
    """A row a variant of one data set, in the order that the benchmark runs them."""
    mine = [r for r in records if r["dataset"] == dataset and chosen(r["variant"])]
    groups = summarise(map(with_shares, mine), ["variant"], list(_COMPARED))
    groups.sort(key=lambda group: _rank(group["variant"]))
    rows = [
        [
            group["variant"],
            *(deviated(group[field], group["n"], _scale(field)) for field in _COMPARED),
            str(group["n"]),
        ]
        for group in groups
    ]
    return markdown(["variant", *_COMPARED.values(), "seeds"], rows) if groups else ""


def _rank(variant: str) -> int:
    return [*VARIANTS, variant].index(variant)


def _of(preset: str, *words: str) -> Callable[[str], bool]:
    """Chooses the preset itself, and its variants that are named by one of the words."""
    return lambda name: (
        name == preset or (name.startswith(preset) and any(word in name for word in words))
    )


_EXPERIMENTS = ("paper, cross-entropy alone", "paper, vector conditioning and dropout", "paper")
_CHOICES: dict[str, Callable[[str], bool]] = {
    "experiments": lambda name: name in _EXPERIMENTS,
    "schemes": _of("natural", " conditioning"),
    "terms": _of("natural", "without", "member"),
    "dropout": _of("natural", ", dropout"),
    "paper-schemes": lambda name: (
        name not in _EXPERIMENTS[:2] and _of("paper", " conditioning")(name)
    ),
    "explore-terms": _of("explore", "without"),
    "paper-terms": _of("paper", "without"),
    # beside its own rate measured again: students of "paper" learned in a former way
    "paper-dropout": lambda name: name.startswith("paper, dropout"),
}


def peers_table(records: list[Record], dataset: str) -> str:
    """A row a method: figures of its first images, its pace at both counts; the best are bold."""
    fields = [*_COMPARED, "images_per_second"]
    mine = [with_shares(r) for r in records if r["dataset"] == dataset]
    groups = summarise(mine, ["method", "images"], fields)
    few = min((group["images"] for group in groups), default=0)
    first = [group for group in groups if group["images"] == few]
    later = {group["method"]: group for group in groups if group["images"] != few}
    paces = [later.get(group["method"]) for group in first]
    columns = [
        *(_marked(first, field) for field in fields),
        _marked(paces, "images_per_second"),
    ]
    rows = [
        [group["method"], *cells, str(group["n"])]
        for group, *cells in zip(first, *columns, strict=True)
    ]
    header = ["method", *_COMPARED.values(), "images a second, 1,000", "100,000", "seeds"]
    return markdown(header, rows) if rows else ""


def _marked(groups: Sequence[Record | None], field: str) -> list[str]:
    """A field's cell of each group, the largest mean in bold where there are several."""
    means = [group[field].mean for group in groups if group and group[field].mean is not None]
    best = max(means) if len(means) > 1 else None
    cells = []
    for group in groups:
        if group is None:
            cells.append("not measured")
            continue
        cell = deviated(group[field], group["n"], _scale(field))
        bold = best is not None and group[field].mean == best
        cells.append(f"**{cell}**" if bold else cell)
    return cells


def _headings(groups: Sequence[Record]) -> list[str]:
    """The data sets' titles, with those settings that differ between the columns."""
    differing = [name for name in _SETTINGS if len({group[name] for group in groups}) > 1]
    return [
        "<br>".join([title_of(group), *(f"{name} {group[name]}" for name in differing)])
        for group in groups
    ]


def zoo_table(records: list[Record]) -> str:
    """A row a classifier."""
    order = sorted(records, key=lambda r: (by_dataset(r), r["role"] != "target"))
    rows = [
        [
            title_of(r),
            r["role"],
            r["arch"],
            f"{r['test_accuracy'] * 100:.2f}",
            f"{r['parameters']:,}",
        ]
        for r in order
    ]
    return markdown(["data set", "role", "architecture", "test accuracy, %", "parameters"], rows)


def speed_table(records: list[Record]) -> str:
    """A row a data set and device."""
    rows = [
        [
            title_of(r),
            r["device"],
            f"{r['step_ms']:.0f}",
            f"{r['unavoidable_ms']:.0f}",
            f"{r['ratio']:.2f}",
        ]
        for r in sorted(records, key=lambda r: (by_dataset(r), r["device"]))
    ]
    return markdown(["data set", "device", "step, ms", "unavoidable, ms", "ratio"], rows)


def _every(datasets: Sequence[str]) -> dict[str, tuple[str, Callable[[list[Any]], str]]]:
    """The tables that there is one of for each data set."""
    made: dict[str, tuple[str, Callable[[list[Any]], str]]] = {}
    for dataset in datasets:
        made[f"peers-{dataset}"] = ("peers", partial(peers_table, dataset=dataset))
        for name, chosen in _CHOICES.items():
            table = partial(ablation_table, dataset=dataset, chosen=chosen)
            made[f"{name}-{dataset}"] = ("ablation", table)
    return made


TABLES: dict[str, tuple[str, Callable[[list[Any]], str]]] = {
    **{preset: ("inversion", of_preset(preset)) for preset in PRESETS},
    **_every(tuple(TITLES)),
    "goals": ("inversion", partial(goals_table, preset="natural")),
    "goals-explore": ("inversion", partial(goals_table, preset="explore")),
    "audit": ("audit", audit_tables.audit_table),
    "demo": ("demo", audit_tables.demo_table),
    **{name: ("reconstruct", table) for name, table in leak_tables.TABLES.items()},
    "leak-membership": ("membership", leak_tables.membership_table),
    **{name: (name, table) for name, table in study_tables.TABLES.items()},
    **{name: ("ood", table) for name, table in ood_tables.WHOLE.items()},
    **{name: ("ood-parts", table) for name, table in ood_tables.PARTS.items()},
    "ood-shortcuts": ("ood-shortcuts", ood_tables.shortcuts_table),
    "zoo": ("zoo", lambda records: zoo_table(records) if records else ""),
    "speed": ("speed", lambda records: speed_table(records) if records else ""),
}
"""By the name of the block: the file of results, and what makes the table of its records."""

if __name__ == "__main__":
    main()

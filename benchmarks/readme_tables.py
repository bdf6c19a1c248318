"""Write the tables in README.md anew from results/*.json.

python benchmarks/readme_tables.py           # write
python benchmarks/readme_tables.py --check   # exit 1 if README.md is out of date
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from preimage.files import write_atomic
from preimage.records import Figure, Record, read_records, summarise

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- /table:\2 -->)", re.DOTALL)
_TITLES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "gtsrb": "GTSRB",
    "svhn": "SVHN",
    "cifar100": "CIFAR-100",
}
_SETTINGS = ("preset", "conditioning", "dropout")


def main() -> None:
    """Rewrite or check README.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    readme = ROOT / "README.md"
    before = readme.read_text(encoding="utf-8")
    after = rewrite(before, ROOT / "results")
    if check and after != before:
        sys.exit("README.md is out of date: run python benchmarks/readme_tables.py")
    if after != before:
        write_atomic(readme, after.encode())


def rewrite(text: str, results: Path) -> str:
    """`text` with every marked block made from the results folder."""

    def block(match: re.Match[str]) -> str:
        name = match[2]
        records = read_records(results / f"{name}.json")
        table = TABLES[name](records) if records else "*not measured yet*"
        return f"{match[1]}{table}\n{match[3]}"

    return _BLOCK.sub(block, text)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table: the first column to the left, the others to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def inversion_table(records: list[Record]) -> str:
    """A column a data set: mean and deviation over the seeds."""
    percent = {
        "inversion_accuracy": "inversion accuracy, %",
        "evaluator_accuracy": "accuracy by the independent evaluator, %",
        "confidence": "mean confidence, %",
        "precision": "precision, %",
        "coverage": "coverage, %",
        "student_accuracy": "student's accuracy on real test images, %",
    }
    plain = {
        "vendi_pixel": "Vendi score per class, pixels",
        "vendi_pixel_real": "the same of real images",
        "vendi_feature": "Vendi score per class, evaluator's features",
        "vendi_feature_real": "the same of real images",
        "seconds": "seconds to invert",
    }
    order = [*list(percent)[:3], *list(plain)[:4], *list(percent)[3:], "seconds"]
    # other settings are another experiment: never averaged with these
    groups = summarise(records, ["dataset", *_SETTINGS], order)
    groups.sort(key=_by_dataset)
    rows = []
    for field in order:
        scale = 100 if field in percent else 1
        cells = [deviated(group[field], group["n"], scale) for group in groups]
        rows.append([{**percent, **plain}[field], *cells])
    rows.append(["seeds", *(str(group["n"]) for group in groups)])
    return markdown(["", *_headings(groups)], rows)


def _headings(groups: Sequence[Record]) -> list[str]:
    """The data sets' titles, with those settings that differ between the columns."""
    differing = [name for name in _SETTINGS if len({group[name] for group in groups}) > 1]
    return [
        "<br>".join([_title(group), *(f"{name} {group[name]}" for name in differing)])
        for group in groups
    ]


def _title(record: Record) -> str:
    return _TITLES.get(record["dataset"], str(record["dataset"]))


def _by_dataset(record: Record) -> int:
    """Where a record stands: in the order of the titles, what has none last."""
    return [*_TITLES, record["dataset"]].index(record["dataset"])


def zoo_table(records: list[Record]) -> str:
    """A row a classifier."""
    order = sorted(records, key=lambda r: (_by_dataset(r), r["role"] != "target"))
    rows = [
        [
            _title(r),
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
            _title(r),
            r["device"],
            f"{r['step_ms']:.0f}",
            f"{r['unavoidable_ms']:.0f}",
            f"{r['ratio']:.2f}",
        ]
        for r in sorted(records, key=lambda r: (_by_dataset(r), r["device"]))
    ]
    return markdown(["data set", "device", "step, ms", "unavoidable, ms", "ratio"], rows)


def deviated(figure: Figure, n: int, scale: float) -> str:
    """Mean and deviation, to as many digits as the figure's size asks for.

    Args:
        figure: over the `figure.values` of `n` records that have a value.
        n: records.
        scale: 100 for shares that are shown as percentages, else 1.
    """
    if figure.mean is None:
        return "not measured"
    digits = 0 if scale == 1 and figure.mean >= 100 else 2 if abs(figure.mean * scale) < 100 else 1
    text = f"{figure.mean * scale:.{digits}f}"
    if figure.deviation is not None:
        text += f" ± {figure.deviation * scale:.{digits}f}"
    return text if figure.values == n else f"{text} ({figure.values} of {n} seeds)"


TABLES: dict[str, Callable[[list[Any]], str]] = {
    "inversion": inversion_table,
    "zoo": zoo_table,
    "speed": speed_table,
}

if __name__ == "__main__":
    main()

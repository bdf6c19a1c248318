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

from preimage.records import Record, read_records, summarise

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- /table:\2 -->)", re.DOTALL)
_TITLES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "gtsrb": "GTSRB",
}


def main() -> None:
    """Rewrite or check README.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    readme = ROOT / "README.md"
    before = readme.read_text()
    after = rewrite(before, ROOT / "results")
    if check and after != before:
        sys.exit("README.md is out of date: run python benchmarks/readme_tables.py")
    readme.write_text(after)


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
    groups = summarise(records, ["dataset"], order)
    groups.sort(key=lambda group: list(_TITLES).index(group["dataset"]))
    rows = []
    for field in order:
        scale = 100 if field in percent else 1
        cells = [deviated(group[field], scale) for group in groups]
        rows.append([{**percent, **plain}[field], *cells])
    rows.append(["seeds", *(str(group["n"]) for group in groups)])
    return markdown(["", *(_TITLES[group["dataset"]] for group in groups)], rows)


def zoo_table(records: list[Record]) -> str:
    """A row a classifier."""
    order = sorted(
        records, key=lambda r: (list(_TITLES).index(r["dataset"]), r["role"] != "target")
    )
    rows = [
        [
            _TITLES[r["dataset"]],
            r["role"],
            r["arch"],
            f"{r['test_accuracy'] * 100:.2f}",
            f"{r['parameters']:,}",
        ]
        for r in order
    ]
    return markdown(["data set", "role", "architecture", "test accuracy, %", "parameters"], rows)


def speed_table(records: list[Record]) -> str:
    """A row a data set."""
    rows = [
        [
            _TITLES[r["dataset"]],
            r["device"],
            f"{r['step_ms']:.0f}",
            f"{r['unavoidable_ms']:.0f}",
            f"{r['ratio']:.2f}",
        ]
        for r in sorted(records, key=lambda r: list(_TITLES).index(r["dataset"]))
    ]
    return markdown(["data set", "device", "step, ms", "unavoidable, ms", "ratio"], rows)


def deviated(value: tuple[float | None, float | None], scale: float) -> str:
    """Mean and deviation, to as many digits as the figure's size asks for."""
    mean, deviation = value
    if mean is None:
        return "not measured"
    digits = 0 if scale == 1 and mean >= 100 else 2 if abs(mean * scale) < 100 else 1
    text = f"{mean * scale:.{digits}f}"
    return text if deviation is None else f"{text} ± {deviation * scale:.{digits}f}"


TABLES: dict[str, Callable[[list[Any]], str]] = {
    "inversion": inversion_table,
    "zoo": zoo_table,
    "speed": speed_table,
}

if __name__ == "__main__":
    main()

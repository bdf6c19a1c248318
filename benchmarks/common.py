"""What the benchmarks share: running the command line, and the fields of a record."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from preimage.environment import commit
from preimage.records import Record, merge_records, read_records

commit()  # noted before anything is measured: the working copy may change underneath
RESULTS = Path(__file__).parents[1] / "results"
DATASETS = ("mnist", "fashion_mnist", "cifar10", "gtsrb")
SETTINGS = ("dataset", "preset", "conditioning", "dropout", "seed")
FIGURES = (
    *("inversion_accuracy", "evaluator_accuracy", "confidence"),
    *("vendi_pixel", "vendi_pixel_real", "vendi_feature", "vendi_feature_real"),
    *("precision", "coverage", "student_accuracy", "seconds", "hardware", "compute_precision"),
)


def invert(arguments: Sequence[str], keep: Path | None = None) -> dict[str, Any]:
    """The record that ``preimage invert ARGUMENTS --json`` prints.

    Args:
        arguments: of the command.
        keep: run folder to leave behind; None keeps nothing.
    """
    program = str(Path(sys.executable).with_name("preimage"))
    with tempfile.TemporaryDirectory() as folder:
        out = str(keep or Path(folder) / "run")
        done = subprocess.run(
            [program, "invert", *arguments, "--json", "--out", out],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    result = json.loads(done.stdout)
    return {field: result[field] for field in (*SETTINGS, *FIGURES)}


def record_missing(
    file: Path,
    axes: dict[str, Iterable[Any]],
    measure: Callable[..., list[Record]],
    keys: Sequence[str],
    again: bool,
    command: str | None = None,
) -> None:
    """Measure every combination that has no record yet, and record each as soon as it is there.

    Args:
        file: the results.
        axes: values by the name of their field, the slowest to change first.
        measure: takes one value of every axis by name, and gives records.
        keys: fields that tell records apart.
        again: whether to measure what is recorded as well.
        command: what to note as the one that makes the file; None takes the benchmark of its name.
    """
    command = command or f"python benchmarks/{file.stem}.py"
    for values in itertools.product(*axes.values()):
        if not again and any(_is(record, axes, values) for record in read_records(file)):
            continue
        records = measure(**dict(zip(axes, values, strict=True)))
        merge_records(file, records, keys, command)
        for record in records:
            print(json.dumps(record), flush=True)


def _is(record: Record, fields: Iterable[str], values: Sequence[Any]) -> bool:
    return all(record[field] == value for field, value in zip(fields, values, strict=True))

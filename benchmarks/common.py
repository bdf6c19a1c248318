"""What the benchmarks share: running the command line, and the fields of a record."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
DATASETS = ("mnist", "fashion_mnist", "cifar10", "gtsrb")
SETTINGS = ("dataset", "preset", "conditioning", "dropout", "seed")
FIGURES = (
    *("inversion_accuracy", "evaluator_accuracy", "confidence"),
    *("vendi_pixel", "vendi_pixel_real", "vendi_feature", "vendi_feature_real"),
    *("precision", "coverage", "student_accuracy", "seconds", "hardware"),
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

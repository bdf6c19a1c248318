"""Invert the bundled classifiers, several seeds each, and record all figures.

    python benchmarks/inversion.py --datasets mnist gtsrb --seeds 0 1 2

Every record is what ``preimage invert DATASET --seed SEED --json`` prints; records that are there
already stay unless --again is given.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from preimage.records import merge_records, read_records

RESULTS = Path(__file__).parents[1] / "results" / "inversion.json"
KEYS = ("dataset", "preset", "conditioning", "dropout", "seed")
FIELDS = (
    *KEYS,
    *("inversion_accuracy", "evaluator_accuracy", "confidence"),
    *("vendi_pixel", "vendi_pixel_real", "vendi_feature", "vendi_feature_real"),
    *("precision", "coverage", "student_accuracy", "seconds", "hardware"),
)


def main() -> None:
    """Run what is asked for and is not recorded yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--datasets", nargs="+", default=["mnist", "fashion_mnist", "cifar10", "gtsrb"]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--keep", type=Path, help="folder to keep the run folders in")
    arguments = parser.parse_args()
    command = "python benchmarks/inversion.py (each record: preimage invert DATASET --seed SEED)"
    for seed in arguments.seeds:
        for dataset in arguments.datasets:
            there = {(r["dataset"], r["seed"]) for r in read_records(RESULTS)}
            if (dataset, seed) in there and not arguments.again:
                continue
            record = measure(dataset, seed, arguments.keep)
            merge_records(RESULTS, [record], KEYS, command)
            print(json.dumps(record), flush=True)


def measure(dataset: str, seed: int, keep: Path | None) -> dict[str, object]:
    """One inversion in a process and a folder of its own."""
    program = str(Path(sys.executable).with_name("preimage"))
    with tempfile.TemporaryDirectory() as folder:
        out = str((keep or Path(folder)) / f"{dataset}-{seed}")
        done = subprocess.run(
            [program, "invert", dataset, "--seed", str(seed), "--json", "--out", out],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    result = json.loads(done.stdout)
    return {field: result[field] for field in FIELDS}


if __name__ == "__main__":
    main()

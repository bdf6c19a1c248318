"""Invert the bundled classifiers by every preset, several seeds each, and record all figures.

    python benchmarks/inversion.py --presets natural --datasets mnist gtsrb --seeds 0 1 2

Every record is what ``preimage invert DATASET --preset PRESET --seed SEED --json`` prints; records
that are there already stay unless --again is given.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import DATASETS, RESULTS, SETTINGS, invert, record_missing
from preimage.config import PRESETS
from preimage.records import Record

FILE = RESULTS / "inversion.json"
TAUGHT, STUDENT_STEPS = "natural", 1200
"""Only inversions that stay near the data are meant to teach a student."""


def main() -> None:
    """Run what is asked for and is not recorded yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=list(PRESETS))
    parser.add_argument("--datasets", nargs="+", default=DATASETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--keep", type=Path, help="folder to keep the run folders in")
    given = parser.parse_args()

    def measure(seed: int, preset: str, dataset: str) -> list[Record]:
        keep = given.keep and given.keep / f"{dataset}-{preset}-{seed}"
        how = ("--preset", preset, "--seed", str(seed))
        if preset != TAUGHT:
            return [invert([dataset, *how, "--no-student"], keep)]
        student = ("--student-steps", str(STUDENT_STEPS))
        return [{**invert([dataset, *how, *student], keep), "student_steps": STUDENT_STEPS}]

    axes = {"seed": given.seeds, "preset": given.presets, "dataset": given.datasets}
    record_missing(FILE, axes, measure, SETTINGS, given.again)


if __name__ == "__main__":
    main()

"""Invert the bundled classifiers by every preset, several seeds each, and record all figures.

    python benchmarks/inversion.py --presets natural --datasets mnist gtsrb --seeds 0 1 2

Every record is what ``preimage invert DATASET --preset PRESET --seed SEED --json`` prints; records
that are there already stay unless --again is given.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

from common import DATASETS, RESULTS, SETTINGS, invert
from preimage.config import PRESETS
from preimage.records import merge_records, read_records

FILE = RESULTS / "inversion.json"
COMMAND = "python benchmarks/inversion.py"


def main() -> None:
    """Run what is asked for and is not recorded yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=list(PRESETS))
    parser.add_argument("--datasets", nargs="+", default=DATASETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--keep", type=Path, help="folder to keep the run folders in")
    given = parser.parse_args()
    for seed, preset, dataset in itertools.product(given.seeds, given.presets, given.datasets):
        there = {(r["dataset"], r["preset"], r["seed"]) for r in read_records(FILE)}
        if (dataset, preset, seed) in there and not given.again:
            continue
        keep = given.keep and given.keep / f"{dataset}-{preset}-{seed}"
        record = invert([dataset, "--preset", preset, "--seed", str(seed)], keep)
        merge_records(FILE, [record], SETTINGS, COMMAND)
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()

"""Out-of-distribution detection: harden, evaluate beside baselines, and record all figures.

    python benchmarks/ood.py --ids mnist --seeds 0 1 2
    python benchmarks/ood.py --ids mnist --seeds 0 --parts
    python benchmarks/ood.py --seeds 0 --shortcuts

The bundled classifier of each data set is hardened by ``preimage ood train DATASET --model
DATASET``; the baselines read the bundled classifier itself. With --scratch both are trained from
the start by the data set's recipe. With --parts the method is measured with parts of it switched
off, or on, and no baseline beside it. With --shortcuts no classifier is asked: what is recorded is
which statistics that know nothing of content tell each pair of the data sets apart, on the images
that ``preimage ood eval`` measures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import DATASETS, RESULTS, record_missing
from preimage.commands import OodEval
from preimage.jobs.ood_sets import known_set, unknown_sets
from preimage.ood.shortcuts import find_shortcuts, same_path
from preimage.records import Record
from preimage.sources import load_classifier

FILE, PARTS = RESULTS / "ood.json", RESULTS / "ood-parts.json"
SHORTCUTS = RESULTS / "ood-shortcuts.json"
PAIR = ("id", "ood", "seed")
KEYS = (*PAIR, "method", "score", "variant", "start")
VARIANTS: dict[str, tuple[str, ...]] = {
    "full": (),
    "noise": ("--rounds", "0"),
    "inversions": ("--inversion-terms", "--no-diverse", "--exclude", "none"),
    "any-inversions": ("--no-diverse",),
    "certain": ("--exclude", "certain"),
    "natural": ("--exclude", "natural"),
    "one-round": ("--rounds", "1"),
    "beside": ("--head", "beside"),
    "six-epochs": ("--epochs", "6"),
    "five-rounds": ("--epochs", "6", "--rounds", "5"),
}
"""By name, what differs from the usual settings. More rounds need more epochs, so these have a
variant of their own."""


def main() -> None:
    """Run what is asked for and is not recorded yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", nargs="+", default=DATASETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--shortcuts", action="store_true")
    parser.add_argument("--scratch", action="store_true")
    parser.add_argument(
        "--alone", action="store_true", help="leave the baselines as they are recorded"
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="also what is recorded; finished runs under --keep are not made again",
    )
    parser.add_argument("--keep", type=Path, help="folder to keep the run folders in")
    given = parser.parse_args()
    command = "python benchmarks/ood.py"
    if given.shortcuts:
        pairs = {"seed": given.seeds, "id": given.ids}
        record_missing(SHORTCUTS, pairs, shortcuts, PAIR, given.again, f"{command} --shortcuts")
        return

    def measure(seed: int, variant: str, id: str, start: str) -> list[Record]:
        with tempfile.TemporaryDirectory() as folder:
            place = given.keep or Path(folder)
            own = place / f"{id}-{start}-{variant}-{seed}"
            return compare(seed, variant, id, start, own, beside=not (given.parts or given.alone))

    axes = {
        "seed": given.seeds,
        "variant": given.variants if given.parts else ["full"],
        "id": given.ids,
        "start": ["scratch" if given.scratch else "bundled"],
    }
    file = PARTS if given.parts else FILE
    command += " --parts" if given.parts else ""
    record_missing(file, axes, measure, KEYS, given.again, command)


def compare(
    seed: int, variant: str, id: str, start: str, place: Path, beside: bool
) -> list[Record]:
    """A record for every set of unknown images and every method.

    Args:
        seed: of the hardening, of the plain classifier where it is trained, and of the sets.
        variant: what to switch off or on.
        id: the known data set.
        start: "bundled" or "scratch".
        place: folder for the runs.
        beside: whether to measure the baselines as well.
    """
    arch = "cnn-deep" if id == "cifar10" else "cnn"
    own = ["--arch", arch] if start == "scratch" else ["--model", id]
    hard, plain = str(place / "hard"), id
    trained = preimage("ood", "train", id, *own, *VARIANTS[variant], "--seed", seed, "--out", hard)
    if start == "scratch":
        plain = str(place / "plain")
        preimage("train", id, "--arch", arch, "--seed", seed, "--out", plain)
    baselines = [] if beside else ["--baselines"]
    result = preimage(
        *("ood", "eval", hard, "--id", id, "--plain", plain, "--seed", seed),
        *("--ood", *(name for name in DATASETS if name != id), *baselines),
        *("--out", str(place / "eval")),
    )
    shared = {
        "variant": variant,
        "start": start,
        "train_seconds": trained["seconds"],
        "rounds": trained["rounds"],
        "garbage": trained["garbage"],
        "compute_precision": trained["compute_precision"],
    }
    return [{**record, **shared} for record in result["records"]]


def shortcuts(seed: int, id: str) -> list[Record]:
    """A record for every set of unknown images: the statistics that tell it from the known one.

    Args:
        seed: of the choice of images, where there are more than are measured.
        id: the known data set.
    """
    classifier = load_classifier(id)
    spec, some = classifier.spec, {"most": OodEval.most, "seed": seed}
    known = known_set(id, spec, classifier.class_names, **some)
    others = [name for name in DATASETS if name != id]
    records = []
    for one in unknown_sets(others, known, spec, synthetic=(), **some):
        found = find_shortcuts(same_path(known.images, one.native), one.images)
        records.append({"id": id, "ood": one.name, "seed": seed, "statistics": dict(found)})
    return records


def preimage(*arguments: Any) -> dict[str, Any]:
    """What a command prints with --json."""
    program = str(Path(sys.executable).with_name("preimage"))
    done = subprocess.run(
        [program, *map(str, arguments), "--json"], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()

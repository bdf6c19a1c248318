"""How well the first layer's weights tell which images they were trained on, and record it.

    python benchmarks/membership.py --datasets mnist --images 500 --classes 10 --seeds 0 1 2

The classifiers are those of benchmarks/reconstruct.py, MLPs trained to zero error, and are kept
with them. Of each there are two records: its training images beside as many unseen ones of the same
split, and, with "members" false, two groups that it has never seen.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from common import RESULTS, record_missing
from preimage import load
from preimage.classifier import frozen
from preimage.data import ImageSet
from preimage.environment import hardware_name
from preimage.jobs.train import IMAGES_FILE
from preimage.leak.first_layer import first_layer
from preimage.leak.membership import Membership, membership
from preimage.records import Record
from preimage.sources import load_classifier
from reconstruct import add_classifiers, classifier_axes, trained, unseen

FILE = RESULTS / "membership.json"
KEYS = ("dataset", "arch", "n_train", "classes", "first_scale", "seed", "members")
FIGURES = dict.fromkeys(field.name for field in fields(Membership))
"""Of a layer that training wrote nearly all of: no figures."""


def main() -> None:
    """Run what is asked for and is not recorded yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_classifiers(parser)
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    record_missing(FILE, classifier_axes(given, ["mlp"]), measure, KEYS, given.again)


def measure(dataset: str, arch: str, n_train: int, classes: int, **of: Any) -> list[Record]:
    """Of one classifier: members beside others, and others beside others."""
    of = {"dataset": dataset, "arch": arch, "n_train": n_train, "classes": classes, **of}
    run = trained(**of, defence="none")
    members = load(str(run / IMAGES_FILE), "train")
    others = unseen(members, of["seed"], dataset, n_train, classes)
    return [
        {**of, "members": known, **_told(run, groups, of["seed"]), "hardware": hardware_name()}
        for known, groups in ((True, [members, others[0]]), (False, others))
    ]


def _told(run: Path, groups: Sequence[ImageSet], seed: int) -> dict[str, Any]:
    classifier = load_classifier(str(run))
    with frozen(classifier):
        layer = first_layer(classifier)
    assert layer is not None
    count = min(len(group) for group in groups)
    start = time.perf_counter()
    train, control = (group.floats(slice(count)) for group in groups)
    found = membership(layer, train, control, seed)
    seconds = time.perf_counter() - start
    figures = FIGURES if found is None else asdict(found)
    return {**figures, "images_each": count, "seconds": seconds}


if __name__ == "__main__":
    main()

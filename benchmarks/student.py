"""What bounds a student: its steps, or what it learns from.

    python benchmarks/student.py cifar10=runs/a --steps 1200 4800 --real

Each run is one of ``preimage invert``. A student learns from the run's inversions, and with --real
another one from as many real *training* images, with no labels but the classifier's own answers:
the least that is lost by learning from a classifier in so many steps. Tested on real test images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from common import RESULTS
from preimage.classifier import Classifier, frozen
from preimage.config import ModelConfig
from preimage.data import ImageSet, load
from preimage.drawing import Draw
from preimage.environment import hardware_name
from preimage.inversion import Inversion, predict
from preimage.jobs.invert import GENERATOR_FILE
from preimage.records import Record, merge_records
from preimage.runtime import stream
from preimage.sources import load_classifier
from preimage.student import StudentConfig, student_accuracy
from preimage.types import Sample

KEYS = ("dataset", "preset", "seed", "images", "steps")
# the runs' own places mean nothing to others
COMMAND = "python benchmarks/student.py DATASET=RUN ... --real"


def main() -> None:
    """Measure the runs named on the command line, each as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="DATASET=RUN")
    parser.add_argument("--steps", nargs="+", type=int, default=[1200])
    parser.add_argument("--real", action="store_true", help="learn from real images as well")
    given = parser.parse_args()
    for argument in given.runs:
        dataset, _, run = argument.partition("=")
        for record in measured(dataset, Path(run), given.steps, given.real):
            merge_records(RESULTS / "student.json", [record], KEYS, COMMAND)
            print(record, flush=True)


def measured(dataset: str, run: Path, steps: list[int], real: bool) -> Iterator[Record]:
    """A record for each number of steps and what was learnt from."""
    classifier = load_classifier(ModelConfig(dataset))
    inversion = Inversion.load(run / GENERATOR_FILE, classifier)
    test, seed = load(dataset, split="test"), inversion.config.seed
    sources: dict[str, Draw] = {"inversions": inversion.sample}
    if real:
        sources["real training images"] = Drawn(load(dataset, split="train"), classifier)
    for count in steps:
        for images, draw in sources.items():
            begin = time.perf_counter()
            with frozen(classifier):
                accuracy = student_accuracy(
                    draw,
                    classifier,
                    test,
                    classes=classifier.classes,
                    config=StudentConfig(steps=count),
                    seed=seed,
                )
            yield {
                **{"dataset": dataset, "preset": inversion.config.preset, "seed": seed},
                **{"images": images, "steps": count, "student_accuracy": accuracy},
                "seconds": round(time.perf_counter() - begin, 1),
                "hardware": hardware_name(),
            }


class Drawn:
    """Draws real images of the classes asked for, each as likely as the others of its class."""

    def __init__(self, images: ImageSet, classifier: Classifier):
        self._images, self._classifier = images, classifier
        self._rows = [(images.labels == k).nonzero().flatten() for k in range(images.classes)]

    def __call__(self, labels: Tensor, *, seed: int) -> Sample:
        """Images and the classifier's answers; they have no condition."""
        random = stream(seed, "real images")
        rows = [self._rows[k] for k in labels.tolist()]
        chosen = [of[int(torch.randint(len(of), (), generator=random))] for of in rows]
        images = self._images.floats(torch.stack(chosen))
        return Sample(images, None, predict(self._classifier, images))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()

"""Beside peers on the same classifier and machine: 1,000 images of each method, and its pace.

    python benchmarks/peers.py --datasets mnist cifar10 --seeds 0

All figures are taken of the same number of images, the student learns from those alone. The pace
counts training. A method that optimises each image by itself has the same pace for any number, so
that of 100,000 images is its measured one of 1,000, marked ``projected``; a generator draws them.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace

import torch
from torch import Tensor

from common import RESULTS, record_missing
from peer_methods import METHODS, ON, optimise
from preimage.classifier import frozen
from preimage.config import PRESETS, ModelConfig
from preimage.data import load
from preimage.drawing import balanced_labels
from preimage.environment import hardware_name
from preimage.inversion import Inversion, predict
from preimage.loop import invert
from preimage.metrics import evaluate
from preimage.records import Record
from preimage.sources import load_classifier
from preimage.student import StudentConfig
from preimage.types import Prediction, Sample

FILE = RESULTS / "peers.json"
KEYS = ("dataset", "method", "images", "seed")
FEW, MANY = 1_000, 100_000
OURS = {"preimage-natural": "natural", "preimage-explore": "explore"}


def main() -> None:
    """Run what is asked for and is not recorded yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", default=["mnist", "cifar10"])
    parser.add_argument("--methods", nargs="+", default=[*OURS, *METHODS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    axes = {"seed": given.seeds, "dataset": given.datasets, "method": given.methods}
    record_missing(FILE, axes, compare, KEYS, given.again)


def compare(seed: int, dataset: str, method: str) -> list[Record]:
    """The record of a few images, and the pace of many."""
    classifier = load_classifier(ModelConfig(dataset))
    labels = balanced_labels(FEW, classifier.classes)
    begin = time.perf_counter()
    inversion = None
    if method in OURS:
        inversion = invert(classifier, replace(PRESETS[OURS[method]], seed=seed), runtime=ON)
        images = inversion.images(labels, seed=seed)
    else:
        with frozen(classifier):
            images = optimise(METHODS[method], classifier, labels, seed)
    seconds = time.perf_counter() - begin
    many = seconds * MANY / FEW if inversion is None else seconds + drawing(inversion, seed)
    metrics = evaluate(
        Pool(images, labels, predict(classifier, images)),
        classifier,
        classes=classifier.classes,
        evaluator=load_classifier(ModelConfig(f"{dataset}-evaluator")),
        real=load(dataset, split="test"),
        seed=seed,
        samples=FEW,
        student=StudentConfig(images=FEW),
    )
    same = {"dataset": dataset, "method": method, "seed": seed, "hardware": hardware_name()}
    few = {**same, "images": FEW, **asdict(metrics), "seconds": round(seconds, 1)}
    return [
        {**few, "images_per_second": FEW / seconds, "projected": False},
        {
            **same,
            "images": MANY,
            "seconds": round(many, 1),
            "images_per_second": MANY / many,
            "projected": inversion is None,
        },
    ]


def drawing(inversion: Inversion, seed: int) -> float:
    """Seconds to draw the rest of many images, a thousand at a time."""
    labels = balanced_labels(FEW, inversion.classes)
    begin = time.perf_counter()
    for part in range(1, MANY // FEW):
        inversion.images(labels, seed=seed * MANY + part)
    return time.perf_counter() - begin


class Pool:
    """Gives the images that there are, each class's in turn and again from its first."""

    def __init__(self, images: Tensor, labels: Tensor, prediction: Prediction):
        self.images, self.labels, self.prediction = images, labels, prediction
        self.taken: dict[int, int] = {}

    def __call__(self, labels: Tensor, *, seed: int) -> Sample:
        """The next image of each label; a pool has no use for a seed."""
        index = torch.tensor([self._next(int(label)) for label in labels])
        prediction = Prediction(*(part[index] for part in self.prediction))
        return Sample(self.images[index], None, prediction)  # type: ignore[arg-type]

    def _next(self, label: int) -> int:
        of_class = (self.labels == label).nonzero().flatten()
        turn = self.taken.get(label, 0)
        self.taken[label] = turn + 1
        return int(of_class[turn % len(of_class)])


if __name__ == "__main__":
    main()

"""How far apart two images of a class are on their way through the classifier, real or inverted.

    python benchmarks/layers.py mnist:paper=runs/a mnist:natural=runs/b

Each run is one of ``preimage invert``. The distance is that of the term ``separation``: half the
mean squared difference of activations, standardised by the batch norm's running statistics.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from common import RESULTS
from preimage.classifier import Classifier, frozen
from preimage.config import ModelConfig
from preimage.data import load
from preimage.drawing import balanced_labels
from preimage.inversion import Inversion
from preimage.jobs.invert import GENERATOR_FILE
from preimage.records import Record, merge_records
from preimage.sources import load_classifier

COUNT = 500


def main() -> None:
    """Measure the runs named on the command line, and the real images of their data sets."""
    records: list[Record] = []
    shown: set[str] = set()
    for argument in sys.argv[1:]:
        name, _, run = argument.partition("=")
        dataset, _, source = name.partition(":")
        classifier = load_classifier(ModelConfig(dataset))
        inversion = Inversion.load(Path(run) / GENERATOR_FILE)
        labels = balanced_labels(COUNT, inversion.classes)
        records += measured(dataset, source, classifier, inversion.images(labels), labels)
        if dataset in shown:
            continue
        shown.add(dataset)
        real = load(dataset, split="test")
        rows = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))[:COUNT]
        images, labels = real.floats(rows), real.labels[rows]
        records += measured(dataset, "real images", classifier, images, labels)
    # the runs' own places mean nothing to others
    command = "python benchmarks/layers.py DATASET:SOURCE=RUN ..."
    merge_records(RESULTS / "layers.json", records, ("dataset", "source", "layer"), command)


@torch.no_grad()
def measured(
    dataset: str, source: str, classifier: Classifier, images: Tensor, labels: Tensor
) -> list[Record]:
    """A record a batch norm."""
    with frozen(classifier):
        layers = classifier.observe(images)[1]
    same = labels[:, None] == labels
    own = torch.eye(len(labels), dtype=torch.bool)
    found = []
    for number, layer in enumerate(layers):
        scaled = layer.values / layer.std.view(1, -1, *(1 for _ in layer.values.shape[2:]))
        rows = scaled.flatten(1).double()
        distance = torch.cdist(rows, rows).square() / (2 * rows.shape[1])
        found.append(
            {
                "dataset": dataset,
                "source": source,
                "layer": number + 1,
                "same_class": float(distance[same & ~own].mean()),
                "other_class": float(distance[~same].mean()),
            }
        )
    return found


if __name__ == "__main__":
    main()

"""Draw docs/study-DATASET.png: a block of images a run, and real ones at the end.

    python benchmarks/study_picture.py mnist runs/a runs/b

Each run is one of ``preimage invert``. A row is a class, the first six samples of each are shown,
unselected; the last block is the first test images of each class.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from picture import CLASSES, block, draw, framed
from preimage.data import load
from preimage.inversion import Inversion
from preimage.jobs.invert import GENERATOR_FILE

DOCS = Path(__file__).parents[1] / "docs"
SAMPLES = 6


def main() -> None:
    """Lay the runs named on the command line beside real images of the data set."""
    dataset, *runs = sys.argv[1:]
    blocks = [block(Inversion.load(Path(run) / GENERATOR_FILE), SAMPLES) for run in runs]
    draw([*blocks, real(dataset)], DOCS / f"study-{dataset}.png")


def real(dataset: str) -> Tensor:
    """The first test images of each class, (CLASSES, SAMPLES + 1, 3, 32, 32), the last a gap."""
    data = load(dataset, split="test")
    rows = [(data.labels == label).nonzero()[:SAMPLES, 0] for label in range(CLASSES)]
    return framed(data.floats(torch.cat(rows)), SAMPLES)


if __name__ == "__main__":
    main()

"""Draw docs/leak.png: what came out of a classifier beside the training image that it is.

    python benchmarks/leak_picture.py runs/a runs/b

Each run is one of ``preimage reconstruct RUN`` for a classifier that was trained with --limit. The
first images are shown, unselected, in the order in which they came out; below each is the training
image that is most similar.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from picture import in_square
from preimage.files import write_atomic
from preimage.gallery import grid_png
from preimage.jobs.reconstruct import IMAGES_FILE
from preimage.leak.matching import similarities
from preimage.tensors import unpack
from reconstruct import trained_on

PICTURE = Path(__file__).parents[1] / "docs" / "leak.png"
COLUMNS = 20


def main() -> None:
    """Lay the runs named on the command line below each other."""
    rows = torch.cat([pairs(Path(run)) for run in sys.argv[1:]])
    write_atomic(PICTURE, grid_png(rows.flatten(0, 1), COLUMNS, scale=1, gap=1))


def pairs(run: Path) -> Tensor:
    """Two rows (2, COLUMNS, 3, 32, 32) of a run."""
    real = trained_on(run).floats()
    found = unpack(run / IMAGES_FILE, "preimage-images-1", "images", "reconstruct again")[1]
    images = found["images"][:COLUMNS]
    nearest = real[similarities(images, real, len(real)).argmax(1)]
    return torch.stack([in_square(images), in_square(nearest)])


if __name__ == "__main__":
    main()

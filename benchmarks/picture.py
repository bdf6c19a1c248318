"""Draw the README's picture: a row a class of the four bundled data sets, all by inversion.

    python benchmarks/picture.py mnist=runs/a fashion_mnist=runs/b cifar10=runs/c gtsrb=runs/d

Each run is one of ``preimage invert``; the first ten classes and eight samples of each are shown,
unselected.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from preimage.files import write_atomic
from preimage.gallery import grid_png
from preimage.inversion import Inversion
from preimage.jobs.invert import GENERATOR_FILE

PICTURE = Path(__file__).parents[1] / "docs" / "inversions.png"
CLASSES, SAMPLES = 10, 8


def main() -> None:
    """Lay the runs named on the command line side by side."""
    runs = [Path(argument.partition("=")[2]) for argument in sys.argv[1:]]
    draw([block(Inversion.load(run / GENERATOR_FILE)) for run in runs], PICTURE)


def draw(blocks: Sequence[Tensor], picture: Path) -> None:
    """Lay blocks as :func:`framed` gives them side by side."""
    # (classes, blocks * (samples + 1) - 1, 3, 32, 32): no gap after the last block
    rows = torch.cat(list(blocks), dim=1)[:, :-1]
    write_atomic(picture, grid_png(rows.flatten(0, 1), rows.shape[1], scale=1, gap=1))


def block(inversion: Inversion, samples: int = SAMPLES) -> Tensor:
    """Samples (CLASSES, samples + 1, 3, 32, 32) of one run, the last column an empty gap."""
    labels = torch.arange(CLASSES).repeat_interleave(samples)
    return framed(inversion.images(labels, seed=0), samples)


def framed(images: Tensor, samples: int) -> Tensor:
    """Images (CLASSES * samples, C, H, W) as (CLASSES, samples + 1, 3, 32, 32), the last a gap."""
    grid = in_square(images).unflatten(0, (CLASSES, samples))
    return torch.cat([grid, torch.full((CLASSES, 1, 3, 32, 32), 0.5)], dim=1)


def in_square(images: Tensor) -> Tensor:
    """Images (N, C, H, W) of at most 32 pixels a side in colour, (N, 3, 32, 32)."""
    height, width = images.shape[2:]
    padding = (0, 32 - width, 0, 32 - height)
    return torch.nn.functional.pad(images.expand(-1, 3, -1, -1), padding, value=0.5)


if __name__ == "__main__":
    main()

"""`preimage sample`: images from a finished inversion, as a picture, an archive or a folder."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preimage.commands import Sample
from preimage.conditioning import check_labels
from preimage.config import Runtime
from preimage.errors import PreimageError
from preimage.files import write_atomic
from preimage.gallery import grid_png
from preimage.inversion import Inversion
from preimage.jobs.invert import GENERATOR_FILE
from preimage.limits import check_count
from preimage.room import check_room, free_bytes
from preimage.run import check_output
from preimage.runtime import make_fabric
from preimage.types import ImageSpec

_BYTES = 10
"""Of a pixel, as it is drawn and as it is written."""
_CPU = torch.device("cpu")


def sample_job(command: Sample) -> dict[str, Any]:
    """Draw and write.

    Returns:
        What was written where.

    Raises:
        PreimageError: for no inversion, a class that does not exist, an unknown kind of output or
            an accelerator that is not there.
        DiskError: when the output cannot be written.
    """
    inversion = Inversion.load(_generator_file(Path(command.source)))
    labels = _labels(command, inversion.spec, inversion.classes)
    out = Path(command.out)
    if out.suffix not in ("", ".png", ".npz"):
        raise PreimageError(
            f"expected --out to end in .png or .npz, or to be a folder, found '{out}'; rename it"
        )
    if out.is_dir() and any(out.iterdir()):
        raise PreimageError(
            f"expected a new or an empty folder for the images, found files in '{out}'; choose "
            "another one with --out"
        )
    if out.suffix:
        check_output(out)
    inversion.to(make_fabric(Runtime(accelerator=command.accelerator)).device)
    images = inversion.images(labels, command.seed)
    if out.suffix == ".png":
        write_atomic(out, _grid(images))
    elif out.suffix == ".npz":
        write_atomic(out, _archive(images, labels))
    else:
        _folder(out, images, labels, inversion.classes)
    return {"images": len(images), "classes": inversion.classes, "out": str(out)}


def _generator_file(source: Path) -> Path:
    return source / GENERATOR_FILE if source.is_dir() else source


def _labels(command: Sample, spec: ImageSpec, classes: int) -> Tensor:
    check_count(command.count)
    check_room(_BYTES * math.prod(spec.shape), command.count, spec, free_bytes(_CPU), "--count")
    check_labels(command.label, classes)
    chosen = torch.tensor(command.label or range(classes), dtype=torch.int64)
    # by class, so that a grid shows one class after the other
    return chosen[torch.arange(command.count) % len(chosen)].sort().values


def _grid(images: Tensor) -> bytes:
    scale = max(1, 56 // images.shape[3])
    return grid_png(images, columns=max(1, round(len(images) ** 0.5)), scale=scale)


def _archive(images: Tensor, labels: Tensor) -> bytes:
    buffer = io.BytesIO()
    pixels = images.mul(255).round().to(torch.uint8)
    np.savez_compressed(buffer, images=pixels.numpy(), labels=labels.numpy())
    return buffer.getvalue()


def _folder(out: Path, images: Tensor, labels: Tensor, classes: int) -> None:
    # of one length, so that the order of the names is that of the classes
    digits = len(str(classes - 1))
    for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        write_atomic(out / f"{label:0{digits}d}" / f"{i:05d}.png", grid_png(image[None], 1))

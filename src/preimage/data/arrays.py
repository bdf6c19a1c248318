"""Arrays in a .npz file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preimage.data.imageset import SMALLEST_SIDE, ImageSet, convert_images
from preimage.data.labels import encode_labels
from preimage.data.sources import WHOLE, Request, Source, choose_split, stamp
from preimage.errors import PreimageError
from preimage.types import ImageSpec

_WHOLE_NAMES = (("images", "labels"), ("x", "y"))
_EXPECTED = "arrays images and labels, or x and y, or x_train, y_train, x_test and y_test"
_STORED = "stored_shape"
"""An array (4,) of what :attr:`ImageSet.stored` and :attr:`ImageSet.mixed` were before the images
were written here; a file without it is where they come from."""

Array = NDArray[Any]

_DAMAGED = (
    *(OSError, ValueError, EOFError, KeyError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)


def npz_source(source: str) -> Source | None:
    """A .npz file of plain arrays; pickled objects in it are never run.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or other integers in 0..255, or
    floats in [0, 1]. Labels are (N,), integers or strings.
    """
    path = Path(source).expanduser()
    if path.suffix != ".npz" or not path.is_file():
        return None
    root = path.resolve()
    return Source(path.stem, str(root), stamp([root]), lambda request: _read(root, request))


def _read(path: Path, request: Request) -> ImageSet:
    try:
        # numpy would also take a single array by this name, which has no names in it
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no archive of arrays")
        with np.load(path, allow_pickle=False) as arrays:
            return _image_set(arrays, path, request)
    except _DAMAGED as error:
        raise PreimageError(
            f"{path} cannot be read as plain arrays ({error}): write it again with numpy.savez "
            "from arrays of numbers"
        ) from error


def _image_set(arrays: Any, path: Path, request: Request) -> ImageSet:
    columns = _columns(arrays.files)
    if not columns:
        found = ", ".join(arrays.files) or "none"
        raise PreimageError(f"{path} has arrays {found}, expected {_EXPECTED}: rename them")
    split = choose_split(request.split, columns, str(path))
    where = f"{path} ({split})"
    image_name, label_name = columns[split]
    images = _images(arrays[image_name], where)
    stored = _stored(arrays, images)
    if request.spec is not None:
        images = convert_images(images, request.spec)
    if not request.labelled:
        return ImageSet(path.stem, split, images, torch.full((len(images),), -1), (), *stored)
    if label_name not in arrays.files:
        raise PreimageError(f"{where} has no array {label_name}: add it, or load without labels")
    labels = _label_list(arrays[label_name], len(images), where)
    others = [name for _, name in columns.values() if name in arrays.files]
    everywhere = {value for name in others for value in arrays[name].ravel().tolist()}
    encoded, names = encode_labels(labels, list(everywhere), where)
    return ImageSet(path.stem, split, images, encoded, names, *stored)


def _stored(arrays: Any, images: Tensor) -> tuple[ImageSpec, bool]:
    """The shape that images had before they came here, and whether that is of several sizes."""
    if _STORED not in arrays.files:
        return ImageSpec(*images.shape[1:]), False
    if arrays[_STORED].shape != (4,):
        raise ValueError(f"expected 4 numbers in {_STORED}, found {arrays[_STORED].size}")
    *shape, mixed = arrays[_STORED].tolist()
    return ImageSpec(*shape), bool(mixed)


def _columns(names: list[str]) -> dict[str, tuple[str, str]]:
    for image, label in _WHOLE_NAMES:
        if image in names:
            return {WHOLE: (image, label)}
    splits = [name.removeprefix("x_") for name in names if name.startswith("x_")]
    return {split: (f"x_{split}", f"y_{split}") for split in splits}


def _images(array: Array, where: str) -> Tensor:
    images = _channels_first(array)
    if images is None or not len(images) or min(images.shape[2:]) < SMALLEST_SIDE:
        raise PreimageError(
            f"{where} has images of shape {array.shape}, expected (N, H, W), (N, H, W, C) or "
            f"(N, C, H, W) with C 1 or 3 and at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels: "
            "reshape them"
        )
    return torch.from_numpy(np.ascontiguousarray(_to_uint8(images, where)))


def _channels_first(array: Array) -> Array | None:
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return array
    if array.ndim == 4 and array.shape[3] in (1, 3):
        return array.transpose(0, 3, 1, 2)
    return None


def _to_uint8(images: Array, where: str) -> Array:
    if images.dtype == np.uint8:
        return images
    low, high = images.min(), images.max()
    if images.dtype.kind == "f" and low >= 0 and high <= 1:
        scaled: Array = np.rint(images * 255).astype(np.uint8)
        return scaled
    if images.dtype.kind in "iu" and low >= 0 and high <= 255:
        return images.astype(np.uint8)
    raise PreimageError(
        f"{where} has {images.dtype} images from {low} to {high}, expected integers in 0..255 or "
        "floats in [0, 1]: scale them"
    )


def _label_list(array: Array, count: int, where: str) -> list[Any]:
    labels = array.ravel()
    if len(labels) != count or labels.dtype.kind not in "iubU":
        raise PreimageError(
            f"{where} has {labels.dtype} labels of shape {array.shape} for {count} images, "
            f"expected ({count},) integers or strings: mend the labels"
        )
    values: list[Any] = labels.tolist()
    return values

"""Encoded images (PNG, JPEG, WebP, ...) to one uint8 tensor."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from preimage.data.imageset import SMALLEST_SIDE, check_spec, convert_images
from preimage.errors import PreimageError
from preimage.types import ImageSpec

Pixels = NDArray[Any]
"""(H, W) grey or (H, W, 3) colour, uint8."""

_BATCH_BYTES = 8 * 2**20
_BITS_PER_SAMPLE = 258  # the tag of TIFF


class Encoded(NamedTuple):
    """One image file, as bytes or as a path."""

    data: bytes | None
    path: str | None
    row: int

    def place(self, where: str) -> str:
        """Name of this image for a message."""
        return self.path if self.path and self.data is None else f"row {self.row} of {where}"


class Decoded(NamedTuple):
    """What came out of encoded images."""

    images: Tensor
    """(N, C, H, W) uint8."""
    stored: ImageSpec
    """The shape that they had before any conversion: of several sizes the median one."""
    mixed: bool
    """Whether they had several sizes."""
    unreadable: tuple[str, ...]
    """Of each image that was left out, why it could not be read."""


def decode(
    items: Iterable[Encoded], where: str, spec: ImageSpec | None = None, *, lenient: bool = False
) -> Decoded:
    """Decode images in order.

    Grey files (1 bit, 8 bit, 16 bit scaled down, with or without alpha) give one channel, all
    others (colour, palette, CMYK) three; alpha is dropped, the EXIF orientation is applied, and of
    an animation the first frame is taken. Where grey and colour meet, all become colour.

    Args:
        items: the images.
        where: what to call their source in a message.
        spec: shape to convert every image to, see :func:`~preimage.data.imageset.convert_images`;
            without it all must have one size.
        lenient: leave out images that cannot be decoded or are under 8 pixels on a side.

    Raises:
        PreimageError: no image, an image that cannot be decoded, one under 8 pixels on a side, or
            sizes that differ when there is no `spec`.
    """
    if spec is not None:
        check_spec(spec)
    chunks: list[Tensor] = []
    shapes: list[tuple[int, ...]] = []
    unreadable: list[str] | None = [] if lenient else None
    for pixels in _batches(_decoded(items, where, spec is None, unreadable)):
        shapes.extend(one.shape for one in pixels)
        chunks.append(_stack(pixels) if spec is None else _convert_each(pixels, spec))
    if not chunks and unreadable:
        raise none_readable(where, unreadable)
    if not chunks:
        raise PreimageError(f"{where} holds no image: give a source with at least one")
    channels = max(chunk.shape[1] for chunk in chunks)
    images = torch.cat([chunk.expand(-1, channels, -1, -1) for chunk in chunks])
    mixed = len({shape[:2] for shape in shapes}) > 1
    return Decoded(images, _median(shapes), mixed, tuple(unreadable or ()))


def none_readable(where: str, reasons: Sequence[str]) -> PreimageError:
    """The error of a source of which no image can be read, with a reason for each."""
    return PreimageError(
        f"expected at least one image that can be read in {where}, found none among "
        f"{len(reasons)}, of which the first: {reasons[0]}"
    )


def no_file(path: Path) -> str | None:
    """Why there is no file to open: a link to nothing, or a named pipe, which would wait for ever.

    Returns:
        A sentence, or None where there is a file.
    """
    if path.is_file():
        return None
    return f"{path} is neither a file nor a link to one that is there: mend or remove it"


def _median(shapes: list[tuple[int, ...]]) -> ImageSpec:
    height, width = (median_low(shape[side] for shape in shapes) for side in (0, 1))
    return ImageSpec(3 if any(len(shape) == 3 for shape in shapes) else 1, height, width)


def _decoded(
    items: Iterable[Encoded], where: str, one_size: bool, unreadable: list[str] | None
) -> Iterator[Pixels]:
    """What can be decoded; why the others can't goes to `unreadable`, where there is one."""
    size: tuple[int, ...] | None = None
    for item in items:
        try:
            pixels = _pixels(item, where)
        except PreimageError as error:
            if unreadable is None:
                raise
            unreadable.append(str(error))
            continue
        size = size or pixels.shape[:2]
        if one_size and pixels.shape[:2] != size:
            raise PreimageError(
                f"the images of one set must have one size, but {item.place(where)} is "
                f"{_size(pixels)} and those before it are {size[0]}x{size[1]}: resize them, or "
                "give the shape that all are to be converted to (--image, in Python spec=)"
            )
        yield pixels


def _batches(decoded: Iterable[Pixels]) -> Iterator[list[Pixels]]:
    """Batches of so many bytes, since photographs in their own size would fill the memory."""
    batch: list[Pixels] = []
    size = 0
    for pixels in decoded:
        batch.append(pixels)
        size += pixels.nbytes
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _pixels(item: Encoded, where: str) -> Pixels:
    missing = no_file(Path(item.path)) if item.path and item.data is None else None
    if missing:
        raise PreimageError(missing)
    try:
        with Image.open(io.BytesIO(item.data) if item.data is not None else item.path or "") as im:
            _check_range(im)
            pixels = _to_uint8(ImageOps.exif_transpose(im))
    except Exception as error:  # Pillow's readers raise a dozen unrelated kinds on damaged files
        raise PreimageError(
            f"{item.place(where)} cannot be decoded as an image ({error}): mend or remove it"
        ) from error
    if min(pixels.shape[:2]) < SMALLEST_SIDE:
        raise PreimageError(
            f"{item.place(where)} is {_size(pixels)} pixels, images need at least "
            f"{SMALLEST_SIDE}x{SMALLEST_SIDE}: remove it or use larger images"
        )
    return pixels


def _check_range(image: Image.Image) -> None:
    """Refuse pixels that may mean anything; "I" is also how Pillow reads some files of 16 bits."""
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
    if image.mode == "F" or (image.mode == "I" and 32 in bits):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise ValueError(f"{kind} pixels have no agreed range")


def _to_uint8(image: Image.Image) -> Pixels:
    mode = image.mode
    if mode == "L":
        return np.asarray(image)
    if mode == "I" or mode.startswith("I;16"):
        wide = np.asarray(image).clip(0, 65535)
        return np.rint(wide / 257).astype(np.uint8)  # Pillow's own convert() clips at 255
    return np.asarray(image.convert("L" if mode in ("1", "LA", "La") else "RGB"))


def _stack(pixels: list[Pixels]) -> Tensor:
    if any(one.ndim == 3 for one in pixels):
        pixels = [one if one.ndim == 3 else np.stack([one] * 3, axis=2) for one in pixels]
        return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return torch.from_numpy(np.stack(pixels)).unsqueeze(1)


def _convert_each(pixels: list[Pixels], spec: ImageSpec) -> Tensor:
    out = torch.empty(len(pixels), *spec.shape, dtype=torch.uint8)
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, one in enumerate(pixels):
        rows.setdefault(one.shape, []).append(row)
    for same_shape in rows.values():
        out[same_shape] = convert_images(_stack([pixels[row] for row in same_shape]), spec)
    return out


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[0]}x{pixels.shape[1]}"

"""Pictures of inversions: a PNG grid, and one self-contained page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import Environment, PackageLoader
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

MOST_CLASSES = 50
"""Classes that a page shows; it says how many it leaves out."""

_LONGEST_SIDE = 64
# raw bytes of all images of a page: noise hardly compresses, and base64 adds a third
_MOST_BYTES = 4_500_000


@dataclass(frozen=True)
class GalleryClass:
    """One class's images and how sure the classifier is of each."""

    name: str
    images: Tensor
    """(N, C, H, W) in [0, 1]; C is 1 or 3."""
    confidence: list[float]
    """N probabilities."""


@dataclass(frozen=True)
class _Picture:
    uri: str
    confidence: float


@dataclass(frozen=True)
class _Row:
    name: str
    confidence: float
    pictures: list[_Picture]


def grid_png(images: Tensor, columns: int, scale: int = 1, gap: int = 2) -> bytes:
    """Lay images out in rows.

    Args:
        images: (N, C, H, W) in [0, 1], N at least 1; C is 1 or 3, of other counts the first
            channel is shown.
        columns: images a row.
        scale: pixels of the picture for each pixel of an image.
        gap: pixels between images.

    Returns:
        A PNG file.
    """
    shown = _to_bytes(images).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    count, channels, height, width = shown.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    size = (channels, rows * (height + gap) - gap, columns * (width + gap) - gap)
    canvas = torch.full(size, 128, dtype=torch.uint8)
    for i, image in enumerate(shown):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return _png(canvas)


def gallery_page(
    title: str,
    classes: Sequence[GalleryClass],
    facts: Mapping[str, str],
    notes: Sequence[str] = (),
    left_out: int = 0,
) -> str:
    """One HTML page with all its images in it: no request leaves it.

    The page stays below some 6 MB: images above 64 pixels are reduced, and where a class has more
    images than there is room for, its first ones are shown.

    Args:
        title: the page's heading.
        classes: what to show; the first :data:`MOST_CLASSES` of them are.
        facts: names of figures and the figures, as they are to be read.
        notes: sentences on how the images were made and what to mind.
        left_out: classes that are not among `classes`.
    """
    shown = classes[:MOST_CLASSES]
    room = _MOST_BYTES // max(1, len(shown))
    return render(
        "gallery.html",
        title=title,
        rows=[_row(item, room) for item in shown],
        facts=facts,
        notes=[*notes, *_reduced(shown)],
        left_out=left_out + len(classes) - len(shown),
    )


def render(template: str, **values: Any) -> str:
    """A page from one of the package's templates; every text comes out as text."""
    templates = Environment(
        loader=PackageLoader("preimage"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters["options_apart"] = _options_apart
    return templates.get_template(template).render(**values)


def _options_apart(text: str) -> list[str]:
    """A text's pieces; every second one is an option's name, such as --data."""
    return re.split(r"(?<![\w-])(--[a-z][a-z-]*)", text)


def picture_uris(images: Tensor) -> list[str]:
    """Images (N, C, H, W) in [0, 1] as addresses that hold them, none above 64 pixels a side."""
    return [_data_uri(image) for image in _to_bytes(_reduce(images))]


def _row(item: GalleryClass, room: int) -> _Row:
    """A class as the page shows it, in at most `room` raw bytes of pixels, but one image at least.

    The confidence is the mean over all its images.
    """
    images = _to_bytes(_reduce(item.images))
    count = max(1, room // images[0].numel()) if len(images) else 0
    pictures = [
        _Picture(_data_uri(image), confidence)
        for image, confidence in zip(images[:count], item.confidence, strict=False)
    ]
    return _Row(item.name, sum(item.confidence) / max(1, len(item.confidence)), pictures)


def _reduce(images: Tensor) -> Tensor:
    """Images (N, C, H, W) with no side above the longest that a page shows."""
    height, width = images.shape[2:]
    factor = _LONGEST_SIDE / max(height, width)
    if factor >= 1:
        return images
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return F.interpolate(images.detach().float(), size=size, mode="area")


def _reduced(classes: Sequence[GalleryClass]) -> list[str]:
    """A note for the reader where the page shows less than the images are."""
    sizes = {tuple(item.images.shape[2:]) for item in classes}
    large = [size for size in sizes if max(size) > _LONGEST_SIDE]
    return [
        f"Images of {height} by {width} pixels are reduced to {_LONGEST_SIDE} on the longer side."
        for height, width in sorted(large)
    ]


def _to_bytes(images: Tensor) -> Tensor:
    """Images (N, C, H, W) in [0, 1] as uint8 on the CPU, with 1 or 3 channels."""
    if images.shape[1] not in (1, 3):
        images = images[:, :1]
    return images.detach().cpu().mul(255).round().clamp(0, 255).to(torch.uint8)


def png_uri(png: bytes) -> str:
    """A PNG file as the content of an address."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _data_uri(image: Tensor) -> str:
    """A (C, H, W) uint8 image as the content of an address."""
    return png_uri(_png(image))


def _png(canvas: Tensor) -> bytes:
    """A PNG file of (C, H, W) uint8."""
    array = canvas.permute(1, 2, 0).numpy()
    picture = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()

"""A labelled set of images held as uint8, and its conversion to another shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from preimage.errors import PreimageError
from preimage.types import ImageSpec

SMALLEST_SIDE = 8
"""Fewer pixels than this on a side leave nothing for a convolutional network to see."""

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights of Pillow's convert("L")
_CHUNK_BYTES = 32 * 2**20

Index = Tensor | slice | Sequence[int]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one shape with their classes; the order is that of the source."""

    name: str
    """Known name, hub id, or the file or folder name."""
    split: str
    """Split that was read; "all" where the source has no splits."""
    images: Tensor
    """(N, C, H, W) uint8."""
    labels: Tensor
    """(N,) int64 in [0, classes); all -1 in a set loaded without labels."""
    class_names: tuple[str, ...]
    """Class k is called class_names[k]; empty in a set loaded without labels."""
    stored: ImageSpec | None = None
    """Shape that the images had in their source, before any conversion: of several sizes the median
    height and width; None where there is no telling."""
    mixed: bool = False
    """Whether they had several sizes there."""
    unreadable: tuple[str, ...] = ()
    """Of each image that was left out, why it could not be read; none is where that is an error."""

    @property
    def spec(self) -> ImageSpec:
        """Shape of one image."""
        return ImageSpec(*self.images.shape[1:])

    @property
    def classes(self) -> int:
        """How many classes the set distinguishes, 0 without labels."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.images)

    def floats(self, index: Index | None = None, device: torch.device | None = None) -> Tensor:
        """The images as float32.

        Args:
            index: rows to take, all when None.
            device: where to have them; bytes are sent, a quarter of the floats.

        Returns:
            (n, C, H, W) in [0, 1].
        """
        images = self.images if index is None else self.images[index]
        return images.to(device=device).float().div_(255)

    def subset(self, index: Index) -> ImageSet:
        """The rows at `index`, in that order, with the same classes."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def convert(self, spec: ImageSpec) -> ImageSet:
        """The same images in another shape; see :func:`convert_images` for what is done.

        Raises:
            PreimageError: for a shape that is not 1 or 3 channels of at least 8x8 pixels.
        """
        if spec == self.spec:
            return self
        return replace(self, images=convert_images(self.images, spec))


def convert_images(images: Tensor, spec: ImageSpec) -> Tensor:
    """Change channels and size; the identity where the shape is `spec` already.

    Colour becomes grey as 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601); grey becomes colour as three
    equal channels. The whole image is stretched to the new height and width, whatever its aspect,
    by bilinear interpolation with pixel areas aligned (align_corners=False); when shrinking, the
    triangle filter widens with the scale (antialias), so every source pixel counts. Values are
    rounded to the nearest integer once, at the end.

    Args:
        images: (N, C, H, W) uint8 with C 1 or 3.
        spec: the shape wanted.

    Returns:
        (N, *spec.shape) uint8.

    Raises:
        PreimageError: for a `spec` that is not 1 or 3 channels of at least 8x8 pixels.
    """
    check_spec(spec)
    if images.shape[1:] == spec.shape:
        return images
    out = torch.empty(len(images), *spec.shape, dtype=torch.uint8)
    size = 4 * max(images[0].numel(), out[0].numel()) if len(images) else 1
    step = max(1, _CHUNK_BYTES // size)
    for start in range(0, len(images), step):
        out[start : start + step] = _convert_chunk(images[start : start + step], spec)
    return out


def check_spec(spec: ImageSpec) -> None:
    """Refuse a shape that no image set can have."""
    if spec.channels not in (1, 3) or min(spec.height, spec.width) < SMALLEST_SIDE:
        raise PreimageError(
            f"images have 1 or 3 channels and at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels, "
            f"so they cannot be converted to {spec}: ask for another shape"
        )


def _convert_chunk(images: Tensor, spec: ImageSpec) -> Tensor:
    values = images.float()
    if spec.channels < values.shape[1]:
        values = (values * values.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    if values.shape[2:] != (spec.height, spec.width):
        values = F.interpolate(
            values, (spec.height, spec.width), mode="bilinear", antialias=True, align_corners=False
        )
    return values.round_().clamp_(0, 255).to(torch.uint8).expand(-1, spec.channels, -1, -1)

"""Random label-preserving changes to a batch of training images, vectorised over the batch."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from preimage.config import Augmentation


class Changes(NamedTuple):
    """What was drawn for each image; None where the settings ask for no such change."""

    flip: Tensor | None
    """(B,) bool."""
    affine: Tensor | None
    """(B, 4), angle, size and both shifts, each uniform in [-1, 1)."""
    shift: Tensor | None
    """(B, 2), whole pixels from 0 to twice the largest shift."""
    contrast: Tensor | None
    """(B, 2), contrast and brightness, each uniform in [-1, 1)."""

    def rows(self, index: slice) -> Changes:
        """The changes of these rows of the batch."""
        return Changes(*(None if part is None else part[index] for part in self))


def draw_changes(count: int, settings: Augmentation, generator: torch.Generator) -> Changes:
    """Draw changes for `count` images, on the CPU."""
    turned = bool(settings.rotate or settings.scale)
    flip = torch.rand(count, generator=generator) < 0.5 if settings.flip else None
    affine = torch.rand(4, count, generator=generator).T * 2 - 1 if turned else None
    moved = None
    if settings.shift and not turned:
        moved = torch.randint(0, 2 * settings.shift + 1, (2, count), generator=generator).T
    contrast = torch.rand(2, count, generator=generator).T * 2 - 1 if settings.contrast else None
    return Changes(flip, affine, moved, contrast)


def augment(images: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Change each image on its own.

    Args:
        images: (B, C, H, W) in [0, 1]; not modified.
        settings: how far each change may go.
        generator: source of all randomness, on the CPU.

    Returns:
        (B, C, H, W) in [0, 1], on the device of `images`.
    """
    return apply_changes(images, settings, draw_changes(len(images), settings, generator))


def apply_changes(images: Tensor, settings: Augmentation, changes: Changes) -> Tensor:
    """The images (B, C, H, W), changed as was drawn, with gradients."""
    if changes.flip is not None:
        chosen = changes.flip.to(images.device)[:, None, None, None]
        images = torch.where(chosen, images.flip(3), images)
    if changes.affine is not None:
        images = _affine(images, settings, changes.affine)
    if changes.shift is not None:
        images = _moved(images, settings.shift, changes.shift)
    if changes.contrast is not None:
        images = _contrast(images, settings.contrast, changes.contrast)
    return images


def cutmix(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Paste a rectangle of another image of the batch into some of the images.

    After CutMix (Yun et al. 2019, arXiv 1905.04899), but each side of the rectangle is drawn
    between a quarter and three quarters of the image's. There are no labels to mix: ask whoever
    knows the answer about the result.

    Args:
        images: (B, C, H, W).
        share: how many of the batch, from its end, get one, in [0, 1].
        generator: on the CPU.
    """
    batch, _, height, width = images.shape
    other = images[torch.randperm(batch, generator=generator).to(images.device)]
    draw = torch.rand(4, batch, generator=generator)
    inside = _span(draw[0], draw[1], height)[:, :, None] & _span(draw[2], draw[3], width)[:, None]
    inside &= (torch.arange(batch) >= round(batch * (1 - share)))[:, None, None]
    return torch.where(inside[:, None].to(images.device), other, images)


def mixup(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random average of every image and another one of the batch.

    After mixup (Zhang et al. 2018, arXiv 1710.09412) with shares drawn evenly from [0, 1]; there
    are no labels to mix, as in :func:`cutmix`.

    Args:
        images: (B, C, H, W).
        generator: on the CPU.
    """
    other = images[torch.randperm(len(images), generator=generator).to(images.device)]
    share = torch.rand(len(images), 1, 1, 1, generator=generator).to(images.device)
    return share * images + (1 - share) * other


def _span(size: Tensor, place: Tensor, length: int) -> Tensor:
    """(B, length) bool: a run of a quarter to three quarters of the length, anywhere."""
    count = ((0.25 + 0.5 * size) * length).round().clamp(min=1)
    start = (place * (length - count + 1)).floor()
    at = torch.arange(length)
    return (at >= start[:, None]) & (at < (start + count)[:, None])


def _moved(images: Tensor, pixels: int, offset: Tensor) -> Tensor:
    batch, _, height, width = images.shape
    offset = offset.to(images.device)
    rows = offset[:, :1] + torch.arange(height, device=images.device)
    columns = offset[:, 1:] + torch.arange(width, device=images.device)
    padded = F.pad(images, (pixels,) * 4)
    index = torch.arange(batch, device=images.device)[:, None, None]
    # indexing three of four axes moves channels to the end: (B, H, W, C)
    return padded[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _affine(images: Tensor, settings: Augmentation, draw: Tensor) -> Tensor:
    """Rotation, change of size and shift in one bilinear resampling."""
    height, width = images.shape[2:]
    angle = draw[:, 0] * math.radians(settings.rotate)
    size = 1 + draw[:, 1] * settings.scale
    cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
    aspect = height / width
    move_x = draw[:, 2] * 2 * settings.shift / width
    move_y = draw[:, 3] * 2 * settings.shift / height
    theta = torch.stack(
        [
            torch.stack([cos, -sin * aspect, move_x], dim=1),
            torch.stack([sin / aspect, cos, move_y], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _contrast(images: Tensor, most: float, draw: Tensor) -> Tensor:
    contrast, brightness = draw.to(images.device).T[..., None, None, None]
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return ((images - mean) * (1 + most * contrast) + mean * (1 + most * brightness)).clamp(0, 1)

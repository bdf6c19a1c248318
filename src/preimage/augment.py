"""Random label-preserving changes to a batch of training images, vectorised over the batch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from preimage.config import Augmentation


def augment(images: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Change each image on its own.

    Args:
        images: (B, C, H, W) in [0, 1]; not modified.
        settings: how far each change may go.
        generator: source of all randomness, on the CPU.

    Returns:
        (B, C, H, W) in [0, 1], on the device of `images`.
    """
    if settings.flip:
        images = _flip(images, generator)
    if settings.rotate or settings.scale:
        images = _affine(images, settings, generator)
    elif settings.shift:
        images = shift(images, settings.shift, generator)
    if settings.contrast:
        images = _contrast(images, settings.contrast, generator)
    return images


def shift(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Move each image by up to `pixels` whole pixels in both directions, zeros flowing in."""
    batch, _, height, width = images.shape
    offset = torch.randint(0, 2 * pixels + 1, (2, batch), generator=generator).to(images.device)
    rows = offset[0, :, None] + torch.arange(height, device=images.device)
    columns = offset[1, :, None] + torch.arange(width, device=images.device)
    padded = F.pad(images, (pixels,) * 4)
    index = torch.arange(batch, device=images.device)[:, None, None]
    # indexing three of four axes moves channels to the end: (B, H, W, C)
    return padded[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _flip(images: Tensor, generator: torch.Generator) -> Tensor:
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen.to(images.device)[:, None, None, None], images.flip(3), images)


def _affine(images: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Rotation, change of size and shift in one bilinear resampling."""
    batch, _, height, width = images.shape
    draw = torch.rand(4, batch, generator=generator) * 2 - 1
    angle = draw[0] * math.radians(settings.rotate)
    size = 1 + draw[1] * settings.scale
    cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
    aspect = height / width
    move_x, move_y = draw[2] * 2 * settings.shift / width, draw[3] * 2 * settings.shift / height
    theta = torch.stack(
        [
            torch.stack([cos, -sin * aspect, move_x], dim=1),
            torch.stack([sin / aspect, cos, move_y], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _contrast(images: Tensor, most: float, generator: torch.Generator) -> Tensor:
    draw = (torch.rand(2, len(images), 1, 1, 1, generator=generator) * 2 - 1).to(images.device)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return ((images - mean) * (1 + most * draw[0]) + mean * (1 + most * draw[1])).clamp(0, 1)

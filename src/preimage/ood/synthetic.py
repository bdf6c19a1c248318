"""Out-of-distribution images made by code. A new kind is a function with ``@synthetic("name")``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from preimage.data import ImageSet
from preimage.errors import PreimageError
from preimage.ood.pool import gaussian_noise
from preimage.runtime import stream
from preimage.types import ImageSpec

Make = Callable[[Tensor, torch.Generator], Tensor]
"""Known images (N, C, H, W) uint8 to as many others of that shape."""

PREFIX = "synthetic:"
_PATCHES = 4
_AT_ONCE = 2**25
"""Pixels to make at a time."""
_MAKERS: dict[str, Make] = {}
_SHAPED: set[str] = set()


def synthetic(name: str, *, shows_class: bool = False) -> Callable[[Make], Make]:
    """Register a kind under `name`; `shows_class` where a person still sees the known object."""

    def add(function: Make) -> Make:
        _MAKERS[name] = function
        if shows_class:
            _SHAPED.add(name)
        return function

    return add


def synthetic_names(*, shapeless: bool = False) -> tuple[str, ...]:
    """Names of all kinds, or of those alone that show no class."""
    return tuple(name for name in _MAKERS if not (shapeless and name in _SHAPED))


def make_synthetic(name: str, known: ImageSet, seed: int = 0) -> ImageSet:
    """As many images of a kind as `known` has, without labels.

    Args:
        name: one of :func:`synthetic_names`.
        known: in-distribution images; some kinds are made from them, all take their shape.
        seed: the same seed gives the same images.

    Raises:
        PreimageError: for an unknown name.
    """
    if name not in _MAKERS:
        raise PreimageError(
            f"expected a synthetic set out of {', '.join(_MAKERS)}, found '{name}'; choose one of "
            "those"
        )
    random, make = stream(seed, "synthetic", name), _MAKERS[name]
    at_once = max(1, _AT_ONCE // known.images[0].numel())
    images = torch.cat([make(part, random) for part in known.images.split(at_once)])
    return replace(
        known,
        name=PREFIX + name,
        images=images,
        labels=torch.full((len(images),), -1),
        class_names=(),
    )


@synthetic("uniform")
def uniform(images: Tensor, random: torch.Generator) -> Tensor:
    """Independent uniform pixels."""
    return torch.randint(256, images.shape, generator=random, dtype=torch.uint8)


@synthetic("gaussian")
def gaussian(images: Tensor, random: torch.Generator) -> Tensor:
    """Independent Gaussian pixels round mid-grey."""
    return gaussian_noise(len(images), ImageSpec(*images.shape[1:]), random)


@synthetic("constant")
def constant(images: Tensor, random: torch.Generator) -> Tensor:
    """One colour, or one grey, all over."""
    colours = torch.randint(256, (*images.shape[:2], 1, 1), generator=random, dtype=torch.uint8)
    return colours.expand(images.shape).contiguous()


@synthetic("blobs")
def blobs(images: Tensor, random: torch.Generator) -> Tensor:
    """Smooth bright and dark regions with sharp edges: noise, blurred and cut at its median.

    In the manner of the blobs of Hendrycks & Gimpel 2017 ("A baseline for detecting misclassified
    and out-of-distribution examples in neural networks").
    """
    count, channels, height, width = images.shape
    coarse = (max(2, height // 4), max(2, width // 4))
    noise = torch.rand(count, channels, *coarse, generator=random)
    smooth = F.interpolate(noise, (height, width), mode="bicubic", align_corners=False)
    median = smooth.flatten(2).median(2).values[:, :, None, None]
    return (smooth > median).to(torch.uint8) * 255


@synthetic("stripes")
def stripes(images: Tensor, random: torch.Generator) -> Tensor:
    """Sine waves of one direction, wavelength, phase and colour."""
    count, channels, height, width = images.shape
    angle, wavelength, phase = torch.rand(3, count, 1, 1, generator=random)
    angle, phase = angle * math.pi, phase * 2 * math.pi
    wavelength = 3 + wavelength * (min(height, width) / 2 - 3)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    along = rows * angle.sin() + columns * angle.cos()
    wave = (along * (2 * math.pi / wavelength) + phase).sin()[:, None]
    strength = torch.rand(count, channels, 1, 1, generator=random)
    return (127.5 + 127.5 * wave * strength).round().to(torch.uint8)


@synthetic("rotated", shows_class=True)
def rotated(images: Tensor, random: torch.Generator) -> Tensor:
    """Known images, turned by a quarter to the left or to the right."""
    left = torch.rand(len(images), generator=random)[:, None, None, None] < 0.5
    size = images.shape[2:]
    one, other = (_fit(torch.rot90(images, turns, (2, 3)), size) for turns in (1, -1))
    return torch.where(left, one, other)


@synthetic("inverted", shows_class=True)
def inverted(images: Tensor, random: torch.Generator) -> Tensor:
    """Negatives of known images."""
    return 255 - images


@synthetic("phase-scrambled")
def phase_scrambled(images: Tensor, random: torch.Generator) -> Tensor:
    """Known images with their amplitude spectrum and a random phase, one for all channels."""
    spectrum: Tensor = torch.fft.rfft2(images.float())
    noise = torch.rand(len(images), 1, *images.shape[2:], generator=random)
    phase = torch.fft.rfft2(noise).angle()
    phase[..., 0, 0] = 0  # the mean stays
    scrambled = torch.fft.irfft2(spectrum.abs() * torch.exp(1j * phase), s=images.shape[2:])
    return scrambled.round().clamp(0, 255).to(torch.uint8)


@synthetic("patch-shuffled")
def patch_shuffled(images: Tensor, random: torch.Generator) -> Tensor:
    """Known images cut into 4 by 4 patches that change places; a rest at the edge stays."""
    count, channels, height, width = images.shape
    high, wide = height // _PATCHES, width // _PATCHES
    inner = images[:, :, : high * _PATCHES, : wide * _PATCHES]
    cells = inner.reshape(count, channels, _PATCHES, high, _PATCHES, wide)
    cells = cells.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    order = torch.rand(count, _PATCHES**2, generator=random).argsort(1)
    cells = cells[torch.arange(count)[:, None], order]
    cells = cells.unflatten(1, (_PATCHES, _PATCHES)).permute(0, 3, 1, 4, 2, 5)
    shuffled = images.clone()
    shuffled[:, :, : high * _PATCHES, : wide * _PATCHES] = cells.reshape(inner.shape)
    return shuffled


def _fit(images: Tensor, size: torch.Size) -> Tensor:
    """Images that were turned, in their old size again; the same where they are square."""
    if images.shape[2:] == size:
        return images
    floats = F.interpolate(images.float(), tuple(size), mode="bilinear", align_corners=False)
    return floats.round().to(torch.uint8)

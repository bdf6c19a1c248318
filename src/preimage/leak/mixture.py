"""A mixture of images whose parts are made sharp: pixels in [0, 1], sparse edges, no two alike."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from preimage.leak.components import KNEE, Edges, whitening_of
from preimage.types import ImageSpec

FEW = 100
"""Images up to which a step of sharpening takes no longer, and may be as long."""

_AS_IT_WAS = 0.8
"""Cosine of an image's pixels, less their mean, with those before: below it was no image yet."""
_LAST_KNEE = 0.03
_RANGE, _FAINT = 500.0, 0.03
_APART = 0.2
_LAST_APART = 0.033
_RATE = 0.01
"""Of each coordinate of :data:`FEW` images and fewer; all together move by its root of n."""


class Unmixed(NamedTuple):
    """What came out of a layer's weights."""

    images: Tensor
    """(n, C, H, W) float32 in [0, 1], one a direction that stands out: those that are certain
    first, then those that are possible images, the most likely of each kind first."""
    possible: int
    """How many are certain or possible; the others are cut off at black and white."""
    certain: int = 0
    """How many two separations from different starts agreed on."""


class Losses(NamedTuple):
    """Of each image (n,)."""

    outside: Tensor
    """Mean square of how far the pixels are outside [0, 1]."""
    edges: Tensor
    """How far its edges are from sparse."""
    faint: Tensor
    """How little contrast it has, where only this keeps it from fading."""

    @property
    def total(self) -> Tensor:
        """All of them, weighted."""
        return _RANGE * self.outside + self.edges + _FAINT * self.faint


class Mixture(ABC):
    """Images as combinations of n directions, each at its place among all that are allowed.

    Attributes:
        basis: (n, D) float64, the directions as pixels, on the CPU, to be separated.
        edges: of these.
        vectors: (n, D) or (n, D + 1), orthonormal directions of the same span, of pixels first.

    Args:
        basis: as above.
        constants: (n, 1) of the directions, where images have one.
        spec: shape of the images, of D pixels.
        device: where to work.
    """

    def __init__(
        self, basis: Tensor, constants: Tensor | None, spec: ImageSpec, device: torch.device
    ):
        self.spec = spec
        self.basis = basis
        self.edges = Edges(basis, spec)
        whole = basis if constants is None else torch.cat([basis, constants], dim=1)
        self._whole = whole.float().to(device)
        self.vectors = torch.linalg.qr(self._whole.T)[0].T
        steps = self.edges(self.vectors[:, : basis.shape[1]])
        whitening = whitening_of(steps)
        self._white_steps = whitening @ steps
        # against a volume of exactly 0, whose logarithm has no gradient
        self._ridge = 1e-6 * torch.eye(len(basis)).to(self.vectors)
        self._unwhitened = torch.linalg.inv(whitening.double()).to(steps)

    @abstractmethod
    def start(self, combinations: Tensor) -> Tensor:
        """Places (n, ...) of what a separation found, (n, n) combinations of its rows."""

    @abstractmethod
    def rows(self, place: Tensor) -> Tensor:
        """Places as combinations (n, n) of the directions."""

    @abstractmethod
    def pixels(self, rows: Tensor) -> Tensor:
        """The images (n, D) of these combinations, of any range."""

    @abstractmethod
    def faintness(self, place: Tensor) -> Tensor:
        """How little contrast the images have, (n,), as far as nothing else decides it."""

    @abstractmethod
    def settled(self, place: Tensor) -> Tensor:
        """The places after what sharpening cannot decide."""

    @abstractmethod
    def possible(self, place: Tensor, outside: Tensor) -> Tensor:
        """Which (n,) may be images, bool; `outside` as in :class:`Losses`."""

    def sharpen(self, start: Tensor, steps: int, tell: Callable[[int], None]) -> Tensor:
        """Move all images to where they are possible, sparse in edges, and not alike."""
        place = start.clone().requires_grad_()
        rate = _RATE * min(1.0, math.sqrt(FEW / len(place)))
        rate *= float(place.detach().norm(dim=1).median())
        optimizer = torch.optim.Adam([place], lr=rate, betas=(0.9, 0.99))
        for step in range(steps):
            done = step / steps
            for group in optimizer.param_groups:
                group["lr"] = rate * (0.505 + 0.495 * math.cos(math.pi * done))
            losses, alike = self._losses(place, KNEE * (_LAST_KNEE / KNEE) ** done)
            apart = _APART + (_LAST_APART - _APART) * done
            loss = losses.total.mean() + apart * alike
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 50 == 49 or step == steps - 1:
                tell(step + 1)
        return self.settled(place.detach())

    def unmoved(self, start: Tensor, end: Tensor) -> float:
        """The share of images that are at the end about what they were at the start."""
        before, after = (self.pixels(self.rows(place)) for place in (start, end))
        before, after = (pixels - pixels.mean(1, keepdim=True) for pixels in (before, after))
        return float((F.cosine_similarity(before, after) > _AS_IT_WAS).float().mean())

    def best(self, place: Tensor, certain: Tensor) -> Unmixed:
        """Images by whether they are certain, then possible, then by how sparse their edges are."""
        losses, _ = self._losses(place, _LAST_KNEE)
        certain = certain.to(place.device)
        possible = certain | self.possible(place, losses.outside)
        order = losses.total.argsort()
        order = order[(certain.int() + possible.int())[order].argsort(descending=True, stable=True)]
        pixels = self.pixels(self.rows(place[order]))
        images = pixels.clamp(0, 1).reshape(-1, *self.spec.shape).cpu()
        return Unmixed(images, int(possible.sum()), int(certain.sum()))

    def _combined(self, combinations: Tensor) -> Tensor:
        """Combinations (n, n) of the basis as those of the vectors."""
        return combinations.to(self._whole) @ self._whole @ self.vectors.T

    def _losses(self, place: Tensor, knee: float) -> tuple[Losses, Tensor]:
        rows = self.rows(place)
        pixels = self.pixels(rows)
        outside = (pixels - pixels.clamp(0, 1)).square().mean(1)
        unit = F.normalize(rows @ self._unwhitened, dim=1)
        edges = torch.log1p((unit @ self._white_steps).abs() / knee).mean(1)
        # the volume that the images span: 0 as soon as two of them are one
        volume = torch.logdet(unit @ unit.T + self._ridge)
        return Losses(outside, edges, self.faintness(place)), -volume / len(unit)

"""Mixtures that say how bright an image is, and mixtures that do not."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from preimage.leak.first_layer import FirstLayer
from preimage.leak.mixture import Mixture
from preimage.types import ImageSpec

_LEAST_CONSTANT = 1e-6
_MOST_OUTSIDE = 0.01
_BEYOND = 0.01
"""Share of the pixels of an image at full contrast that may lie beyond black or white."""
_NO_ROOM = 0.02
_CONTRASTS = (0.25, 0.4, 0.6, 0.8, 1.0, 1.3)
"""Shares of full contrast that an image may have been trained on at, as far as is known."""
_AGREES = 0.7
"""Cosine of what an image left in the weights with what it would leave now."""


class KnownContrast(Mixture):
    """Images that have a constant of 1 each, which tells their scale.

    Args:
        layer: that they were taken from.
        found: (n, D + 1) float64, the directions of inputs and constant.
        spec: shape of the images.
        device: where to work.
    """

    def __init__(self, layer: FirstLayer, found: Tensor, spec: ImageSpec, device: torch.device):
        inputs, constants = found[:, :-1], found[:, -1:]
        basis = (inputs - constants * layer.shift) / layer.scale
        super().__init__(basis, constants, spec, device)
        constant = self.vectors[:, -1]
        self._origin = constant / constant.square().sum()  # the shortest with a constant of 1
        self._free = _orthogonal_to(constant)

    @property
    def tells_scale(self) -> bool:
        """Whether there is a constant at all: a bias that never learnt has none."""
        return float(self._whole[:, -1].norm()) >= _LEAST_CONSTANT * float(self._whole.norm())

    def start(self, combinations: Tensor) -> Tensor:
        """Combinations of the basis as places (n, n - 1)."""
        rows = self._combined(combinations)
        constant = rows @ self.vectors[:, -1:]
        tiny = 1e-3 * rows.norm(dim=1, keepdim=True)
        sure = torch.where(constant.abs() < tiny, tiny, constant)
        return (rows / sure - self._origin) @ self._free

    def rows(self, place: Tensor) -> Tensor:
        """Combinations with a constant of 1."""
        return self._origin + place @ self._free.T

    def pixels(self, rows: Tensor) -> Tensor:
        """Images (n, D), less their constants."""
        return (rows @ self.vectors)[:, :-1]

    def faintness(self, place: Tensor) -> Tensor:
        """None (n,): the constant tells how faint they are."""
        return torch.zeros(len(place)).to(place)

    def settled(self, place: Tensor) -> Tensor:
        """As they are: the constant decides all."""
        return place

    def possible(self, place: Tensor, outside: Tensor) -> Tensor:
        """Those with nearly all pixels in [0, 1] of themselves."""
        return outside < _MOST_OUTSIDE


class UnknownContrast(Mixture):
    """Images that may be brighter, fainter, and negatives, around a grey that is known.

    Weight decay wears away what images have left in the weights, but not in the bias, so that the
    constant says nothing. An image is then as strong as pixels in [0, 1] allow. And of an image and
    its negative it is the one that, if it were trained on now, would move each unit in the
    proportions in which it has left itself there: under weight decay these are of late steps.

    Args:
        layer: with :attr:`~preimage.leak.first_layer.FirstLayer.gradients`.
        found: (n, D) float64, the directions of inputs.
        spec: shape of the images.
        device: where to work.
    """

    def __init__(self, layer: FirstLayer, found: Tensor, spec: ImageSpec, device: torch.device):
        self._layer = layer
        self._grey = (-layer.shift / layer.scale).float().to(device)
        super().__init__(found / layer.scale, None, spec, device)

    def start(self, combinations: Tensor) -> Tensor:
        """Combinations of the basis as places (n, n), settled."""
        return self.settled(self._combined(combinations))

    def sharpen(self, start: Tensor, steps: int, tell: Callable[[int], None]) -> Tensor:
        """As any mixture, but settled half-way: what was a negative begins anew as an image."""
        half = steps // 2
        between = super().sharpen(start, half, tell)
        return super().sharpen(between, steps - half, lambda done: tell(half + done))

    def rows(self, place: Tensor) -> Tensor:
        """The places themselves."""
        return place

    def pixels(self, rows: Tensor) -> Tensor:
        """Images (n, D) around grey."""
        return self._grey + rows @ self.vectors

    def faintness(self, place: Tensor) -> Tensor:
        """Less of the logarithm of their contrast: else all would fade to grey, which fits well."""
        return -place.norm(dim=1).log()

    def settled(self, place: Tensor) -> Tensor:
        """Each image or its negative, whichever agrees better, at full contrast."""
        left = self._left(place)
        negative = self._agreement(-place, -left) > self._agreement(place, left)
        place = torch.where(negative[:, None], -place, place)
        return place * self._fullest(place)

    def possible(self, place: Tensor, outside: Tensor) -> Tensor:
        """Those that would move the units about as they have."""
        return self._agreement(place, self._left(place)) > _AGREES

    def _fullest(self, place: Tensor) -> Tensor:
        """What (n, 1) places can be multiplied by, with nearly all pixels in [0, 1]."""
        deviations = place @ self.vectors
        room = torch.where(deviations > 0, 1 - self._grey, self._grey)
        # beyond a grey that is black or white itself there is only noise, which must not decide
        room = torch.where(room < _NO_ROOM, 1.0, room) / deviations.abs()
        return room.quantile(_BEYOND, dim=1, keepdim=True)

    def _left(self, place: Tensor) -> Tensor:
        """How much of each image is in each unit, (n, H) float64."""
        inputs = ((place @ self.vectors).double().cpu() * self._layer.scale).T
        return torch.linalg.lstsq(inputs, self._layer.weights[:, :-1].T).solution

    def _agreement(self, place: Tensor, left: Tensor) -> Tensor:
        """Largest cosine (n,), over contrasts, of what images left in the units and now would."""
        assert self._layer.gradients is not None
        full = place * self._fullest(place)
        found = []
        for contrast in _CONTRASTS:
            images = self.pixels(contrast * full).clamp(0, 1)
            gradients = self._layer.gradients(images.reshape(-1, *self.spec.shape))
            found.append(F.cosine_similarity(left, gradients, dim=1))
        return torch.stack(found).amax(0).to(place)


def _orthogonal_to(vector: Tensor) -> Tensor:
    """(n, n - 1) orthonormal columns, all orthogonal to `vector` (n,)."""
    return torch.linalg.svd(vector[None], full_matrices=True)[2][1:].T.contiguous()

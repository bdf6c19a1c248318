"""What a detector measures of an image, brought to one scale."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from preimage.ood.scores import garbage_odds, known_energy

VIEWS = {"answer": 2, "features": 2, "layers": 1}
"""How many measures each view of an image has, in the order of :func:`measures`."""


def measures(logits: Tensor, nearness: Tensor, layers: Tensor) -> Tensor:
    """All measures of images (B, 5), larger for what is farther out.

    Args:
        logits: (B, n + 1), garbage last.
        nearness: (B, 2), see :class:`preimage.ood.nearness.Nearness`.
        layers: (B, L), see :class:`preimage.ood.layers.LayerDistance`.
    """
    answer = torch.stack([garbage_odds(logits), known_energy(logits)], dim=1)
    return torch.cat([answer, nearness.to(answer), layers.mean(1, keepdim=True)], dim=1).double()


class Gauge(NamedTuple):
    """How measures vary over real images."""

    means: tuple[float, ...]
    """Of every measure."""
    deviations: tuple[float, ...]
    """Likewise."""
    of_views: tuple[float, ...]
    """Deviation of each view, which is the mean of its standardised measures."""

    @classmethod
    def of(cls, measured: Tensor) -> Gauge:
        """By the :func:`measures` (N, 5) of real images."""
        means, deviations = measured.mean(0).tolist(), _deviations(measured)
        first = cls(tuple(means), deviations, (1.0,) * len(VIEWS))
        return first._replace(of_views=_deviations(first(measured)))

    def __call__(self, measured: Tensor) -> Tensor:
        """Views (B, 3) of the :func:`measures` (B, 5), each in deviations of real images."""
        standard = (measured - measured.new_tensor(self.means)) / measured.new_tensor(
            self.deviations
        )
        views = torch.stack(
            [part.mean(1) for part in standard.split(list(VIEWS.values()), dim=1)], dim=1
        )
        return views / views.new_tensor(self.of_views)


def _deviations(values: Tensor) -> tuple[float, ...]:
    return tuple(values.std(0).clamp_min(1e-6).tolist())

"""What the garbage class is trained on: noise at first, then inversions of every round."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from preimage.data.thumbnails import thumbnails
from preimage.runtime import stream
from preimage.types import ImageSpec

NOISE_ROUND = 0
_NOISE_SPREAD = 0.25  # Gaussian round mid-grey: two deviations reach black and white


class GarbagePool:
    """A bounded, varied set of images that are none of the classes.

    Args:
        spec: shape of the images.
        capacity: images to keep at most.
        noise: of these, Gaussian noise that the pool starts with and never gives up.
        seed: the noise and every choice follow from it.
    """

    def __init__(self, spec: ImageSpec, capacity: int, noise: int, seed: int):
        self.capacity, self.seed = capacity, seed
        self.images = gaussian_noise(noise, spec, stream(seed, "garbage", "noise"))
        """(N, C, H, W) uint8."""
        self.rounds = torch.full((noise,), NOISE_ROUND)
        """(N,) int64: the round that each image came in, 0 for the noise."""

    def __len__(self) -> int:
        return len(self.images)

    def add(self, images: Tensor, count: int, *, diverse: bool = True) -> int:
        """Take in the next round.

        Where the pool is full, every earlier round gives up an equal share.

        Args:
            images: (N, C, H, W) uint8 candidates.
            count: how many of them to take at most.
            diverse: take those farthest from each other; else any.

        Returns:
            How many were taken.
        """
        number = self.last_round + 1
        random = stream(self.seed, "garbage", number)
        room = self.capacity - int((self.rounds == NOISE_ROUND).sum())
        count = max(0, min(count, len(images), room))
        if diverse:
            chosen = farthest_points(thumbnails(images), count, random)
        else:
            chosen = torch.randperm(len(images), generator=random)[:count]
        self._make_room(room - count, random)
        self.images = torch.cat([self.images, images[chosen]])
        self.rounds = torch.cat([self.rounds, torch.full((count,), number)])
        return count

    @property
    def last_round(self) -> int:
        """Number of the last round that gave images."""
        return int(self.rounds.max()) if len(self) else NOISE_ROUND

    def drop_round(self, number: int) -> None:
        """Forget what a round gave."""
        self._keep(self.rounds != number)

    def draw(self, count: int, random: torch.Generator) -> Tensor:
        """`count` images at random, float32 (count, C, H, W) in [0, 1], some twice if need be."""
        rows = torch.randint(len(self), (count,), generator=random)
        return self.images[rows].float() / 255

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` takes."""
        return {"images": self.images, "rounds": self.rounds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Be as the pool that gave `state`."""
        self.images, self.rounds = state["images"], state["rounds"]

    def _make_room(self, inversions: int, random: torch.Generator) -> None:
        """Thin the earlier rounds evenly, until no more than so many inversions are left."""
        earlier = (self.rounds != NOISE_ROUND).nonzero().flatten()
        if len(earlier) <= inversions:
            return
        stay = self.rounds == NOISE_ROUND
        stay[earlier[torch.randperm(len(earlier), generator=random)[:inversions]]] = True
        self._keep(stay)

    def _keep(self, rows: Tensor) -> None:
        self.images, self.rounds = self.images[rows], self.rounds[rows]


def gaussian_noise(count: int, spec: ImageSpec, random: torch.Generator) -> Tensor:
    """Independent Gaussian pixels round mid-grey, cut to the range: (count, C, H, W) uint8."""
    values = torch.randn(count, *spec.shape, generator=random) * _NOISE_SPREAD + 0.5
    return values.clamp(0, 1).mul(255).round().to(torch.uint8)


def farthest_points(points: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Choose points that are far from each other.

    The greedy 2-approximation of k-center (Gonzalez 1985, "Clustering to minimize the maximum
    intercluster distance"): from a random first point, always the one farthest from those chosen.

    Args:
        points: (N, D).
        count: how many to choose, at most N.
        random: gives the first.

    Returns:
        (count,) int64 row numbers, all different, in the order of choice.
    """
    chosen = torch.empty(count, dtype=torch.int64)
    if count == 0:
        return chosen
    norms = points.square().sum(1)
    nearest = torch.full((len(points),), float("inf"))
    row = int(torch.randint(len(points), (1,), generator=random))
    for i in range(count):
        chosen[i] = row
        distances = norms + norms[row] - 2 * (points @ points[row])
        nearest = torch.minimum(nearest, distances)
        nearest[row] = -float("inf")
        row = int(nearest.argmax())
    return chosen

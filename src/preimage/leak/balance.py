"""Weights of loss terms that follow from their gradients, so that nobody tunes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_MEMORY = 0.7
_LEAST = 1e-12


class Balance:
    """Give each term the say that its priority asks for, whatever its size.

    A term's weight is its priority over the norm of its gradient at the images, averaged over the
    latest looks: the same idea as GradNorm (Chen et al. 2018, section 3.1) without a rate to learn.
    A term whose gradient vanishes, as that of the range of pixels does at first, weighs as if its
    norm were a millionth of the largest: it is held to nothing until it has one.

    Args:
        priorities: by the term's name, at least 0; terms of 0 are not used.
    """

    def __init__(self, priorities: Mapping[str, float]):
        self.priorities = {name: value for name, value in priorities.items() if value > 0}
        self._norms: dict[str, float] = {}

    def look(self, values: Mapping[str, Tensor], images: Tensor) -> None:
        """Measure the gradients of all terms at `images`, which keep their graph."""
        for name, value in values.items():
            (gradient,) = torch.autograd.grad(value, images, retain_graph=True, allow_unused=True)
            norm = 0.0 if gradient is None else float(gradient.norm())
            before = self._norms.get(name, norm)
            self._norms[name] = _MEMORY * before + (1 - _MEMORY) * norm

    def weights(self) -> dict[str, float]:
        """The weight of each term that was looked at."""
        largest = max(self._norms.values(), default=0.0)
        floor = max(largest * 1e-6, _LEAST)
        return {
            name: self.priorities[name] / max(norm, floor) for name, norm in self._norms.items()
        }

    def total(self, values: Mapping[str, Tensor], times: Mapping[str, int]) -> Tensor:
        """The weighted sum, in which each term counts so many times."""
        weights = self.weights()
        terms = [weights[name] * times[name] * value for name, value in values.items()]
        return torch.stack(terms).sum()

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` takes."""
        return {"norms": dict(self._norms)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Be as the one that gave `state`."""
        self._norms = dict(state["norms"])

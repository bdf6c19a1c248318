"""Costly terms take turns, since each needs passes through the classifier of its own."""

from __future__ import annotations

from collections.abc import Iterable

_SHARING = (("kl_noise", "ce_noise"), ("kl_adversarial", "ce_adversarial"), ("gradient",))
"""Terms that share the passes that no other term needs."""


class Turns:
    """Which terms of a search are due at a step, and how many times each counts.

    What perturbed images and the weights' gradient need takes most of a step, and says little that
    is new from one step to the next. At its turn a term counts for those steps too at which it
    waited, so that its say stays as it is (as the lazy regularisation of Karras et al. 2020,
    "Analyzing and improving the image quality of StyleGAN", section 3.1).

    Args:
        names: of all terms that are used, out of :data:`preimage.limits.SAYS`.
    """

    def __init__(self, names: Iterable[str]):
        self._names = list(names)
        self._waiting = [
            wanted
            for group in _SHARING
            if (wanted := [name for name in group if name in self._names])
        ]
        waiting = {name for group in self._waiting for name in group}
        self._always = [name for name in self._names if name not in waiting]
        self.round = max(1, len(self._waiting))
        """Steps after which every term has been due as often as it counts."""

    def every(self) -> dict[str, int]:
        """All terms, each once."""
        return dict.fromkeys(self._names, 1)

    def due(self, step: int) -> dict[str, int]:
        """How many times each term counts at this step; those that wait are not in it."""
        turn = self._waiting[step % self.round] if self._waiting else []
        return dict.fromkeys(self._always, 1) | dict.fromkeys(turn, self.round)

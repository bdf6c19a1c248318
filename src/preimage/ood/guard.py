"""Watch the accuracy on the known classes while garbage grows."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["good", "back", "stop"]


@dataclass
class AccuracyGuard:
    """Remembers the last good state, and says when to go back to it.

    Args:
        margin: how far the validation accuracy may fall below the best so far, in [0, 1].
        patience: how often to go back before giving up.
    """

    margin: float
    patience: int
    best: float = 0.0
    returns: int = 0
    good: dict[str, Any] | None = None

    def expect(self, accuracy: float, state: dict[str, Any]) -> None:
        """Take a state from before the first epoch as the best so far.

        Args:
            accuracy: on the same held-out images.
            state: to go back to.
        """
        self.best, self.good = accuracy, copy.deepcopy(state)

    def judge(self, accuracy: float, state: dict[str, Any]) -> Verdict:
        """What to do after an epoch.

        Args:
            accuracy: on held-out images of the known classes.
            state: the epoch's, kept where it is good.

        Returns:
            "good" to go on, "back" to go on from :attr:`good`, "stop" to end with that.
        """
        if accuracy >= self.best - self.margin:
            self.best = max(self.best, accuracy)
            self.good = copy.deepcopy(state)
            return "good"
        self.returns += 1
        return "back" if self.returns <= self.patience else "stop"

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` takes."""
        return {"best": self.best, "returns": self.returns, "good": self.good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Be as the guard that gave `state`."""
        self.best, self.returns, self.good = state["best"], state["returns"], state["good"]

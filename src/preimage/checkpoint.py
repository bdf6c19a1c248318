"""Where a long job keeps its state."""

from __future__ import annotations

from typing import Any, Protocol


class Checkpointer(Protocol):
    """Keeps the state of a job; :class:`preimage.run.RunFolder` is one."""

    def load_state(self) -> dict[str, Any] | None:
        """The last state saved, or None."""

    def save_state(self, state: dict[str, Any]) -> None:
        """Keep `state`, so that a kill at any moment loses only the work since."""

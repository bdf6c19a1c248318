"""How a job tells what it is doing."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Hears of progress and of things left out."""

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """`done` of `total` of `what` are done; `note` says how it is going."""

    def warn(self, text: str) -> None:
        """Something was left out or is not as it should be; one sentence."""


class Kept:
    """Passes all on, and keeps what was warned of.

    Args:
        report: hears of the same.
    """

    def __init__(self, report: Reporter):
        self.report = report
        self.warnings: list[str] = []
        self.progress = report.progress

    def warn(self, text: str) -> None:
        """Keep it, and pass it on."""
        self.warnings.append(text)
        self.report.warn(text)


class Silent:
    """Hears and says nothing."""

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """Do nothing."""

    def warn(self, text: str) -> None:
        """Do nothing."""

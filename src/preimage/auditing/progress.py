"""Progress of an audit: which part, how far it is, and about how much time is left."""

from __future__ import annotations

from preimage.jobs.report import Reporter


class AuditReporter:
    """Passes on what the parts' own jobs tell, under the part's name; a :class:`Reporter`."""

    def __init__(self, report: Reporter):
        self._report = report
        self._part = ""
        self._said: set[str] = set()

    def begin(self, part: str, index: int, count: int, left: float) -> None:
        """A part begins, with `left` seconds of the budget to go."""
        self._part = part
        note = f"{part}; up to {_time(left)} left" if left > 0 else f"{part}; the time is used up"
        self._report.progress("audit", index, count, note)

    def end(self, count: int) -> None:
        """All parts are done."""
        self._report.progress("audit", count, count, "done")

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """See :class:`Reporter`."""
        self._report.progress(f"{self._part}: {what}", done, total, note)

    def warn(self, text: str) -> None:
        """See :class:`Reporter`; several parts may say the same, which is told once."""
        if text not in self._said:
            self._said.add(text)
            self._report.warn(text)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

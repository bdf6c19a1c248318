"""What a command shows on the terminal: progress and warnings on standard error, a table at the
end on standard output. NO_COLOR and output that is no terminal are respected.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from preimage.files import shown

_LINE_EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal to draw a bar on."""


class Terminal:
    """A :class:`preimage.jobs.report.Reporter` for people.

    Args:
        quiet: print no table, for a command whose result goes out as JSON.
    """

    def __init__(self, quiet: bool = False):
        self._errors = Console(stderr=True, soft_wrap=True, emoji=False)
        self._output = Console(soft_wrap=True, emoji=False)
        self._quiet = quiet
        self._tasks: dict[str, TaskID] = {}
        self._last_line = 0.0
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            console=self._errors,
            disable=not self._errors.is_terminal,
        )

    def __enter__(self) -> Terminal:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """Move the bar of `what`, or print a line now and then."""
        if self._errors.is_terminal:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, note="")
            self._bars.update(
                self._tasks[what], completed=done, total=total, note=escape(shown(note))
            )
            return
        now = time.monotonic()
        if done == total or now - self._last_line >= _LINE_EVERY:
            self._last_line = now
            self._errors.print(
                escape(shown(f"{what} {done}/{total}  {note}".rstrip())), highlight=False
            )

    def warn(self, text: str) -> None:
        """Print one sentence in yellow."""
        self._errors.print(f"[yellow]note:[/] {escape(_one_line(text))}", highlight=False)

    def error(self, text: str) -> None:
        """Print one sentence in red."""
        self._errors.print(f"[bold red]error:[/] {escape(_one_line(text))}", highlight=False)

    def table(self, title: str, values: dict[str, Any], missing: str = "not measured") -> None:
        """Print names and values; `missing` stands for None."""
        if self._quiet:
            return
        table = Table(title=escape(shown(title)), title_justify="left", show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in values.items():
            table.add_row(escape(name.replace("_", " ")), escape(_text(value, missing)))
        self._output.print(table)


def _one_line(text: str) -> str:
    """A sentence may quote an error that has several lines."""
    return " ".join(shown(text).split())


def _text(value: Any, missing: str) -> str:
    if value is None:
        return missing
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        rows = ((name.replace("_", " "), _text(item, missing)) for name, item in value.items())
        return "\n".join(f"{name}: {text}" for name, text in rows)
    if isinstance(value, list | tuple):
        return _list_text(value, missing)
    return shown(str(value))


def _list_text(values: list[Any] | tuple[Any, ...], missing: str) -> str:
    """Short values on one line, the rest one below the other."""
    if not values:
        return "none"
    if any(isinstance(value, dict) for value in values):
        return "\n".join(_text(value, missing) for value in values)
    return ", ".join(_text(value, missing) for value in values)

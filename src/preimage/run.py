"""One folder per run: settings, log, state to go on from, and what came of it.

Every file is written whole or not at all, and every log line is on the disk before the state that
covers it. So a run that was killed at any moment goes on from its last state, and ends with the
files of an unbroken one.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from preimage.environment import environment
from preimage.errors import PreimageError
from preimage.files import (
    append_line,
    check_writable,
    make_folder,
    plain,
    read_json,
    read_sealed,
    remove_leftovers,
    write_atomic,
    write_json,
    write_sealed,
    writing,
)
from preimage.settings import FORMAT, check_equal, check_kind, check_version, read_settings

_CONFIG, _ENVIRONMENT, _LOG = "config.json", "environment.json", "metrics.jsonl"
_METRICS, _STATE, _PREVIOUS = "metrics.json", "state.pt", "state.prev.pt"
_LOCK, _WRITTEN = ".lock", ".written.json"
_ELAPSED = "elapsed_seconds"
# the order to remove them in: a kill in between leaves an unfinished run that can go on
_OWN = (_METRICS, _STATE, _PREVIOUS, _LOG, _ENVIRONMENT, _WRITTEN, _CONFIG)


def folder_name(text: str) -> str:
    """`text` with a dash for whatever might not suit a folder's name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text)


def check_output(path: Path) -> None:
    """See that a command may write its output to `path`, before the work that it is to hold.

    Raises:
        PreimageError: when a run keeps a file of its own there.
        DiskError: when it cannot be written.
    """
    check_writable(path)
    if (path.parent / _CONFIG).is_file() and path.name in _kept(path.parent):
        raise PreimageError(
            f"expected a file of another name, found that '{path}' is one that the run in that "
            "folder keeps; write to another file"
        )


def others_in(path: Path) -> list[str]:
    """Names of what is in a run's folder and not the run's own; none where there is no run."""
    if not (path / _CONFIG).is_file():
        return []
    names = (file.name for file in path.iterdir() if not file.name.startswith("."))
    return sorted(set(names) - _kept(path))


class RunFolder:
    """A run's folder, held by one process at a time; use it as a context manager."""

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path = path
        self.settings = settings
        self._lock: FileLock | None = None
        self._start: float | None = None

    @classmethod
    def create(
        cls, path: str | Path, kind: str, config: dict[str, Any], *, overwrite: bool = False
    ) -> RunFolder:
        """Make a run's folder, or go on with the equal run that is in it.

        Args:
            path: the folder; made where it is missing.
            kind: what kind of run it is, such as "invert".
            config: the settings, ready for JSON; a run goes on only under equal ones.
            overwrite: remove the files that a run wrote in it, and start anew. Other files stay.

        Raises:
            PreimageError: when the folder holds another run, no run but other files, or another
                version's run, or another process is at work in it.
            DiskError: when it cannot be written.
        """
        path = Path(path)
        settings = {"format": FORMAT, "kind": kind, "config": plain(config)}
        make_folder(path)
        folder = cls(path, settings)
        folder._refuse_foreign()
        folder._acquire()
        try:
            folder._claim(overwrite)
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def open(cls, path: str | Path, kind: str | None = None) -> RunFolder:
        """Open an existing run for reading.

        Raises:
            PreimageError: when there is none, or it is of another kind or version.
        """
        path = Path(path)
        if not (path / _CONFIG).is_file():
            raise PreimageError(
                f"expected a run folder, found no {_CONFIG} in '{path}'; check the path"
            )
        settings = read_settings(path / _CONFIG)
        check_version(settings, path)
        if kind is not None:
            check_kind(settings, kind, path)
        return cls(path, settings)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return (self.path / _METRICS).is_file()

    def log(self, **values: Any) -> None:
        """Append one line to the log.

        Args:
            values: at least `step`, counted from 1, 0 being before the first; NaN and infinity
                become null.

        Raises:
            DiskError: when it cannot be written.
        """
        append_line(self.path / _LOG, json.dumps(plain(values), allow_nan=False))

    def metrics_log(self) -> list[dict[str, Any]]:
        """The log's whole lines, in order."""
        return list(self._lines())

    def rewind(self, step: int) -> None:
        """Drop what the log has beyond `step`, and a line that a kill tore.

        Args:
            step: the one that the loaded state stands at; 0 where there is no state.

        Raises:
            DiskError: when it cannot be written; the log stays as it was.
        """
        kept = [json.dumps(line) + "\n" for line in self._lines() if line["step"] <= step]
        write_atomic(self.path / _LOG, "".join(kept).encode())

    def rewind_to_state(self) -> dict[str, Any] | None:
        """Bring the log to the state that the work goes on from.

        Returns:
            The state, or None where none was saved.

        Raises:
            PreimageError: when states are there, and all are damaged.
            DiskError: when it cannot be written; the log stays as it was.
        """
        state = self.load_state()
        self.rewind(int(state["step"]) if state else 0)
        return state

    def resume_clock(self) -> float:
        """Bring the log to the state, and tell when the run would have begun without a break.

        Returns:
            A time of :func:`time.perf_counter`, from which seconds count the earlier parts as well.

        Raises:
            PreimageError: when states are there, and all are damaged.
            DiskError: when the log cannot be written.
        """
        state, log = self.rewind_to_state() or {}, self.metrics_log()
        # a state may be of work that logs no step
        earlier = max(state.get(_ELAPSED, 0.0), log[-1]["seconds"] if log else 0.0)
        self._start = time.perf_counter() - earlier
        return self._start

    def save_state(self, state: dict[str, Any]) -> None:
        """Keep `state` (tensors and plain values); the one before it is kept as a reserve.

        After :meth:`resume_clock` it also has how long the work has taken so far.

        Raises:
            DiskError: when it cannot be written; the state before it stays.
        """
        import torch

        if self._start is not None:
            state = {**state, _ELAPSED: time.perf_counter() - self._start}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        current = self.path / _STATE
        # a damaged state must not push the good one out of its reserve
        if read_sealed(current) is not None:
            with writing(current):
                current.replace(self.path / _PREVIOUS)
        write_sealed(current, buffer.getvalue())

    def load_state(self) -> dict[str, Any] | None:
        """The last whole state, its tensors on the CPU, or None where none was saved.

        Raises:
            PreimageError: when states are there, and all are damaged.
        """
        import torch

        files = [file for file in (self.path / _STATE, self.path / _PREVIOUS) if file.is_file()]
        for data in map(read_sealed, files):
            if data is not None:
                state: dict[str, Any] = torch.load(
                    io.BytesIO(data), map_location="cpu", weights_only=True
                )
                return state
        if files:
            raise PreimageError(
                f"expected a state to go on from in '{self.path}', found it damaged; start anew "
                "with --overwrite"
            )
        return None

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the run, whole or not at all.

        Args:
            name: a file name without a folder, none of those that the run folder itself uses.
            data: its content.

        Raises:
            DiskError: when it cannot be written; what was there before stays.
        """
        if not _is_name(name):
            raise ValueError(f"expected a file name that is free in a run folder, found '{name}'")
        written = _written_in(self.path)
        if name not in written:
            write_json(self.path / _WRITTEN, [*written, name])
        write_atomic(self.path / name, data)

    def finish(self, metrics: dict[str, Any]) -> None:
        """Write the run's result, which marks its end: write everything else before.

        Raises:
            DiskError: when it cannot be written.
        """
        write_json(self.path / _METRICS, metrics)

    def metrics(self) -> dict[str, Any]:
        """The result that :meth:`finish` wrote.

        Raises:
            PreimageError: when the run has not come to its end, or its result is damaged.
        """
        if not self.finished:
            raise PreimageError(
                f"expected a finished run, found one without result in '{self.path}'; give its "
                "command again to go on with it"
            )
        values = read_json(self.path / _METRICS)
        if not isinstance(values, dict):
            raise PreimageError(
                f"expected a run's result, found a damaged {_METRICS} in '{self.path}'; restore it "
                "or start anew with --overwrite"
            )
        return values

    def versions(self) -> dict[str, Any]:
        """Of the packages that the run began with, by name; none where they are not known."""
        made: Any = None
        with suppress(PreimageError):
            made = read_json(self.path / _ENVIRONMENT)
        found = made.get("versions") if isinstance(made, dict) else None
        return found if isinstance(found, dict) else {}

    def _refuse_foreign(self) -> None:
        """Refuse a folder with files in it that is no run's, before anything is written to it."""
        if (self.path / _CONFIG).is_file():
            read_settings(self.path / _CONFIG)
            return
        with writing(self.path):
            foreign = [f.name for f in self.path.iterdir() if not f.name.startswith(".")]
        if foreign:
            raise PreimageError(
                f"expected an empty folder or a run folder, found '{foreign[0]}' in "
                f"'{self.path}'; choose another one with --out"
            )

    def _acquire(self) -> None:
        lock = FileLock(self.path / _LOCK)
        with writing(self.path):
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise PreimageError(
                    f"expected '{self.path}' to be free, found another process at work in it; "
                    "wait for it or choose another folder with --out"
                ) from error
        self._lock = lock

    def _claim(self, overwrite: bool) -> None:
        """Take the folder for this run: a new one, the equal run's, or another's overwritten."""
        if (self.path / _CONFIG).is_file():
            there = read_settings(self.path / _CONFIG)
            if not overwrite:
                check_version(there, self.path)
            if overwrite or not self._begun():
                self._clear()
            else:
                check_equal(there, self.settings, self.path)
        remove_leftovers(self.path, [*_OWN, *_written_in(self.path)])
        # the settings come first: they alone make the folder a run's
        if not (self.path / _CONFIG).is_file():
            write_json(self.path / _CONFIG, self.settings)
        if not (self.path / _ENVIRONMENT).is_file():
            write_json(self.path / _ENVIRONMENT, environment())

    def _begun(self) -> bool:
        """Whether there is work to lose: settings that fail at once must not hold the folder."""
        states = (self.path / _STATE, self.path / _PREVIOUS)
        saved = self.finished or any(file.is_file() for file in states)
        return saved or bool(_written_in(self.path) or self.metrics_log())

    def _clear(self) -> None:
        """Remove what a run wrote, and nothing else."""
        written = _written_in(self.path)
        first, *others = _OWN
        remove_leftovers(self.path, [*_OWN, *written])
        for name in (first, *written, *others):
            with writing(self.path / name):
                (self.path / name).unlink(missing_ok=True)

    def _lines(self) -> Iterator[dict[str, Any]]:
        file = self.path / _LOG
        if not file.is_file():
            return
        for line in file.read_bytes().split(b"\n")[:-1]:
            try:
                values = json.loads(line)
            except ValueError:
                return
            if not isinstance(values, dict) or not isinstance(values.get("step"), int):
                return
            yield values


def _kept(folder: Path) -> set[str]:
    """Names of the files in a run's folder that are its own."""
    return {*_OWN, *_written_in(folder)}


def _written_in(folder: Path) -> list[str]:
    """Names of the files that a run's job wrote, or was about to write."""
    file = folder / _WRITTEN
    names = read_json(file) if file.is_file() else []
    # a folder may come from elsewhere: no name in it may lead out of it
    return [
        name
        for name in (names if isinstance(names, list) else [])
        if isinstance(name, str) and _is_name(name)
    ]


def _is_name(name: str) -> bool:
    """Whether a job may write a file of this name."""
    return name == Path(name).name and name[:1] not in ("", ".") and name not in _OWN

"""One folder per run: settings, log, state to go on from, and what came of it.

Every file is written whole or not at all, and every log line is on the disk before the state that
covers it. So a run that was killed at any moment goes on from its last state, and ends with the
files of an unbroken one.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from preimage.environment import environment
from preimage.errors import PreimageError
from preimage.files import append_line, disk_error, make_folder, read_json, write_atomic, write_json

FORMAT = 1
_CONFIG, _ENVIRONMENT, _LOG = "config.json", "environment.json", "metrics.jsonl"
_METRICS, _STATE, _PREVIOUS, _LOCK = "metrics.json", "state.pt", "state.prev.pt", ".lock"
_DIGEST = 32


class RunFolder:
    """A run's folder, held by one process at a time; use it as a context manager."""

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path = path
        self.settings = settings
        self._lock: FileLock | None = None

    @classmethod
    def create(
        cls, path: str | Path, kind: str, config: dict[str, Any], *, overwrite: bool = False
    ) -> RunFolder:
        """Make a run's folder, or go on with the equal run that is in it.

        Args:
            path: the folder; made where it is missing.
            kind: what kind of run it is, such as "invert".
            config: the settings, ready for JSON; a run goes on only under equal ones.
            overwrite: remove the files of another run that is in it. Other files stay.

        Raises:
            PreimageError: when the folder holds another run, foreign files or another version's
                run, or another process is at work in it.
            DiskError: when it cannot be written.
        """
        path = Path(path)
        settings = {"format": FORMAT, "kind": kind, "config": _plain(config)}
        make_folder(path)
        folder = cls(path, settings)
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
        settings = _read_settings(path)
        if kind is not None and settings["kind"] != kind:
            raise PreimageError(
                f"expected a run of `preimage {kind}`, found one of `preimage {settings['kind']}` "
                f"in '{path}'; choose another folder"
            )
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
        """Append one line to the log; give at least `step`."""
        append_line(self.path / _LOG, json.dumps(_plain(values), allow_nan=False))

    def metrics_log(self) -> list[dict[str, Any]]:
        """The log's whole lines, in order."""
        return list(self._lines())

    def rewind(self, step: int) -> None:
        """Drop what the log has beyond `step`, and a line that a kill tore."""
        kept = [json.dumps(line) + "\n" for line in self._lines() if line["step"] <= step]
        write_atomic(self.path / _LOG, "".join(kept).encode())

    def save_state(self, state: dict[str, Any]) -> None:
        """Keep `state` (tensors and plain values); the one before it is kept as a reserve."""
        import torch

        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        current = self.path / _STATE
        if current.is_file():
            # a copy by renaming: at every moment one of the two names has a whole state
            current.replace(self.path / _PREVIOUS)
        write_atomic(current, hashlib.sha256(data).digest() + data)

    def load_state(self) -> dict[str, Any] | None:
        """The last whole state, or None where none was saved.

        Raises:
            PreimageError: when states are there, and all are damaged.
        """
        files = [f for f in (self.path / _STATE, self.path / _PREVIOUS) if f.is_file()]
        for file in files:
            state = _read_state(file)
            if state is not None:
                return state
        if files:
            raise PreimageError(
                f"expected a state to go on from in '{self.path}', found it damaged; start anew "
                "with --overwrite"
            )
        return None

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the run, whole or not at all."""
        write_atomic(self.path / name, data)

    def finish(self, metrics: dict[str, Any]) -> None:
        """Write the run's result, which marks its end."""
        write_json(self.path / _METRICS, _plain(metrics))

    def metrics(self) -> dict[str, Any]:
        """The result that :meth:`finish` wrote.

        Raises:
            PreimageError: when the run has not come to its end.
        """
        if not self.finished:
            raise PreimageError(
                f"expected a finished run, found one without result in '{self.path}'; give its "
                "command again to go on with it"
            )
        values: dict[str, Any] = read_json(self.path / _METRICS)
        return values

    def _acquire(self) -> None:
        lock = FileLock(self.path / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise PreimageError(
                f"expected '{self.path}' to be free, found another process at work in it; wait "
                "for it or choose another folder with --out"
            ) from error
        except OSError as error:
            raise disk_error(error, self.path) from error
        self._lock = lock

    def _claim(self, overwrite: bool) -> None:
        """Take the folder for this run: an empty one, the equal run's, or another's overwritten."""
        if (self.path / _CONFIG).is_file():
            if not overwrite:
                self._check_equal()
                return
            self._clear()
        elif foreign := [f.name for f in self.path.iterdir() if not _may_stay(f.name)]:
            raise PreimageError(
                f"expected an empty folder or a run folder, found '{foreign[0]}' in "
                f"'{self.path}'; choose another one with --out"
            )
        write_json(self.path / _ENVIRONMENT, environment())
        write_json(self.path / _CONFIG, self.settings)

    def _check_equal(self) -> None:
        there = _read_settings(self.path)
        differing = sorted(_differences(there, self.settings))
        if differing:
            raise PreimageError(
                f"expected '{self.path}' to hold the same run, found one with other "
                f"{', '.join(differing[:3])}; choose another folder with --out, or replace it "
                "with --overwrite"
            )

    def _clear(self) -> None:
        """Remove a run's files; its settings go last, so that a kill leaves it a run."""
        try:
            for file in self._files():
                if file.name not in (_CONFIG, _LOCK) and _is_ours(file.name):
                    file.unlink()
            (self.path / _CONFIG).unlink()
        except OSError as error:
            raise disk_error(error, self.path) from error

    def _files(self) -> list[Path]:
        return [file for file in self.path.iterdir() if file.is_file()]

    def _lines(self) -> Iterator[dict[str, Any]]:
        file = self.path / _LOG
        if not file.is_file():
            return
        for line in file.read_bytes().split(b"\n")[:-1]:
            try:
                yield json.loads(line)
            except ValueError:
                return


def _may_stay(name: str) -> bool:
    """Whether a folder with this in it counts as empty: a kill may come before the settings."""
    return name == _ENVIRONMENT or name.startswith(".")


def _is_ours(name: str) -> bool:
    """Whether a run may have written a file of this name."""
    ours = (_ENVIRONMENT, _LOG, _METRICS, _STATE, _PREVIOUS)
    return name in ours or name.startswith(("classifier.", "generator.", "gallery."))


def _read_settings(path: Path) -> dict[str, Any]:
    settings: dict[str, Any] = read_json(path / _CONFIG)
    found = settings.get("format") if isinstance(settings, dict) else None
    if found != FORMAT:
        raise PreimageError(
            f"expected a run folder of version {FORMAT}, found version {found} in '{path}'; use "
            "the preimage that wrote it, or choose another folder with --out"
        )
    return settings


def _read_state(file: Path) -> dict[str, Any] | None:
    """The state in a file; None unless it is whole."""
    import torch

    content = file.read_bytes()
    digest, data = content[:_DIGEST], content[_DIGEST:]
    if hashlib.sha256(data).digest() != digest:
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state


def _plain(value: Any) -> Any:
    """The same value as JSON gives it back; numbers that JSON cannot say become None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _differences(one: Any, other: Any, name: str = "") -> Iterator[str]:
    """Dotted names of the settings that differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from _differences(one.get(key), other.get(key), f"{name}.{key}".strip("."))
    elif one != other:
        yield name.removeprefix("config.config.").removeprefix("config.")

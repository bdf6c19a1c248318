"""Measured results as JSON: flat records, and what they were made with."""

from __future__ import annotations

import hashlib
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from preimage.environment import environment
from preimage.errors import PreimageError
from preimage.files import read_json, write_json

Record = dict[str, Any]


class Figure(NamedTuple):
    """A figure over several records."""

    mean: float | None
    """None where no record has a value."""
    deviation: float | None
    """Sample standard deviation; None below two values."""
    values: int
    """Number of records that have a value."""


def read_records(path: Path) -> list[Record]:
    """The records of a results file; none where the file is missing.

    Raises:
        PreimageError: when the file is damaged or of another form.
    """
    if not path.is_file():
        return []
    content = read_json(path)
    records = content.get("records") if isinstance(content, dict) else None
    if not isinstance(records, list) or not all(isinstance(item, dict) for item in records):
        raise PreimageError(
            f"expected {{meta, records}} in '{path}', found another form; make the file again"
        )
    return records


def merge_records(
    path: Path, new: Iterable[Record], keys: Sequence[str], command: str | None = None
) -> None:
    """Put records into a results file; those with equal keys are replaced, the others stay.

    Every new record is marked with today's date and the commit, as the others may be older.
    Several processes may do this at once.

    Args:
        path: the file, made where it is missing.
        new: flat records.
        keys: fields that tell records apart.
        command: what made them; None takes this process's command line.

    Raises:
        PreimageError: when the file is damaged or of another form.
        DiskError: when the file cannot be written; what was there stays.
    """
    meta = environment()
    if command is not None:
        meta["command"] = command
    origin = {"commit": meta["commit"], "date": meta["date"]}
    marked = [{**record, **origin} for record in new]
    with _lock(path):
        merged = {_key(record, keys): record for record in [*read_records(path), *marked]}
        ordered = sorted(merged.values(), key=lambda record: str(_key(record, keys)))
        write_json(path, {"meta": meta, "records": ordered})


def summarise(records: Iterable[Record], by: Sequence[str], fields: Sequence[str]) -> list[Record]:
    """Mean and sample standard deviation over the records that agree in `by`.

    Args:
        records: flat records.
        by: fields that make a group.
        fields: what to average; None values are left out.

    Returns:
        One record a group, in order of first appearance: the fields of `by`, the number of
        records `n`, and for every field a :class:`Figure`.
    """
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(_key(record, by), []).append(record)
    return [
        {
            **dict(zip(by, key, strict=True)),
            "n": len(group),
            **{field: _figure([record.get(field) for record in group]) for field in fields},
        }
        for key, group in groups.items()
    ]


def _figure(values: Sequence[float | None]) -> Figure:
    present = [value for value in values if value is not None]
    mean = statistics.fmean(present) if present else None
    deviation = statistics.stdev(present) if len(present) > 1 else None
    return Figure(mean, deviation, len(present))


def _lock(path: Path) -> FileLock:
    """A lock for this user and this file, outside the folder of results, which is kept in git."""
    name = hashlib.sha256(f"{Path.home()}\n{path.resolve()}".encode()).hexdigest()[:16]
    return FileLock(Path(tempfile.gettempdir()) / f"preimage-{name}.lock")


def _key(record: Record, keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(record.get(key) for key in keys)

"""Measured results as JSON: flat records, and what they were made with."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from preimage.environment import environment
from preimage.errors import PreimageError
from preimage.files import read_json, write_json

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """The records of a results file; none where the file is missing.

    Raises:
        PreimageError: when the file is damaged or of another form.
    """
    if not path.is_file():
        return []
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("records"), list):
        raise PreimageError(
            f"expected {{meta, records}} in '{path}', found another form; make the file again"
        )
    records: list[Record] = content["records"]
    return records


def merge_records(
    path: Path, new: Iterable[Record], keys: Sequence[str], command: str | None = None
) -> None:
    """Put records into a results file; those with equal keys are replaced, the others stay.

    Args:
        path: the file, made where it is missing.
        new: flat records.
        keys: fields that tell records apart.
        command: what made them; None takes this process's command line.

    Raises:
        DiskError: when the file cannot be written; what was there stays.
    """
    merged = {_key(record, keys): record for record in [*read_records(path), *new]}
    meta = environment()
    if command is not None:
        meta["command"] = command
    ordered = sorted(merged.values(), key=lambda record: str(_key(record, keys)))
    write_json(path, {"meta": meta, "records": ordered})


def summarise(records: Iterable[Record], by: Sequence[str], fields: Sequence[str]) -> list[Record]:
    """Mean and sample standard deviation over the records that agree in `by`.

    Args:
        records: flat records.
        by: fields that make a group.
        fields: what to average; None values are left out.

    Returns:
        One record a group, in order of first appearance: the fields of `by`, `n`, and for every
        field a tuple (mean, deviation); the deviation is None for one value, both for none.
    """
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(_key(record, by), []).append(record)
    return [
        {
            **dict(zip(by, key, strict=True)),
            "n": len(group),
            **{field: _mean([record.get(field) for record in group]) for field in fields},
        }
        for key, group in groups.items()
    ]


def _mean(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    present = [value for value in values if value is not None]
    if not present:
        return None, None
    deviation = statistics.stdev(present) if len(present) > 1 else None
    return statistics.fmean(present), deviation


def _key(record: Record, keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(record.get(key) for key in keys)

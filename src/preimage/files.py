"""Files that are whole or not there: what is written survives a kill at any moment."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from preimage.errors import DiskError, PreimageError

_REASONS = {
    errno.ENOSPC: ("room on the disk", "free some space"),
    errno.EDQUOT: ("room in the quota", "free some space"),
    errno.EFBIG: ("room for the file", "raise the file size limit"),
    errno.EROFS: ("a writable disk", "choose another folder with --out"),
    errno.EACCES: ("permission to write", "choose another folder with --out"),
    errno.EPERM: ("permission to write", "choose another folder with --out"),
    errno.ENOTDIR: ("a folder", "choose another one with --out"),
    errno.EEXIST: ("a folder", "choose another one with --out"),
}


def disk_error(error: OSError, path: Path) -> DiskError:
    """Tell in one sentence why `path` could not be written."""
    wanted, advice = _REASONS.get(error.errno or 0, ("to write", "check the disk and the path"))
    reason = error.strerror or type(error).__name__
    return DiskError(f"expected {wanted} for '{path}', found: {reason}; {advice} and run it again")


def make_folder(path: Path) -> None:
    """Make a folder and those above it.

    Raises:
        DiskError: when it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it holds either what it held before or all of `data`.

    Raises:
        DiskError: when it cannot be written; what was there before stays.
    """
    make_folder(path.parent)
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise disk_error(error, path) from error


def append_line(path: Path, text: str) -> None:
    """Append one line and wait until the disk has it.

    Raises:
        DiskError: when it cannot be written; the line may then be torn.
    """
    try:
        with path.open("ab") as file:
            file.write(text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise disk_error(error, path) from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all.

    Raises:
        DiskError: when it cannot be written.
    """
    write_atomic(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        PreimageError: when it is missing or damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PreimageError(
            f"expected a JSON file at '{path}', found it missing or damaged; "
            "restore it or make it again"
        ) from error


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(path: Path) -> None:
    """Make the new name itself durable; not all systems can open a folder."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

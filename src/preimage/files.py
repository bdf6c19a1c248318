"""Files that are whole or not there: what is written survives a kill at any moment."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
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
    errno.EISDIR: ("a file", "choose another name"),
}
_TEMPORARY = ".preimage-part"
_DIGEST = hashlib.sha256().digest_size


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell a failure to write `path` in one sentence.

    Raises:
        DiskError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        unknown = ("a place to write", "check the disk and the path")
        wanted, advice = _REASONS.get(error.errno or 0, unknown)
        reason = error.strerror or type(error).__name__
        raise DiskError(
            f"expected {wanted} for '{path}', found: {reason}; {advice} and run it again"
        ) from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it.

    Raises:
        DiskError: when it cannot be made.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it holds either what it held before or all of `data`.

    A pipe or a device, such as /dev/stdout, is written to and stays what it is.

    Raises:
        DiskError: when it cannot be written; what was there before stays.
    """
    if _is_special(path):
        with writing(path):
            path.write_bytes(data)
        return
    make_folder(path.parent)
    with writing(path):
        descriptor, name = tempfile.mkstemp(_TEMPORARY, f".{path.name}.", path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def check_writable(path: Path) -> None:
    """See that a file can be written at `path`, before the work that it is to hold.

    Raises:
        DiskError: when it cannot.
    """
    if path.is_dir():
        raise DiskError(f"expected a file to write, found the folder '{path}'; give a file's name")
    if _is_special(path):
        return
    make_folder(path.parent)
    with writing(path), tempfile.NamedTemporaryFile(dir=path.parent, suffix=_TEMPORARY):
        pass


def _is_special(path: Path) -> bool:
    """Whether something is there that is neither a file nor a folder."""
    with writing(path):
        return path.exists() and not path.is_file() and not path.is_dir()


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Remove what killed writes of these files left; nothing may be writing them meanwhile."""
    for name in names:
        for file in folder.glob(f".{name}.*{_TEMPORARY}"):
            with writing(file):
                file.unlink(missing_ok=True)


def append_line(path: Path, text: str) -> None:
    """Append one line and wait until the disk has it.

    Raises:
        DiskError: when it cannot be written; the line may then be torn.
    """
    with writing(path), path.open("ab") as file:
        file.write(text.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def write_sealed(path: Path, data: bytes) -> None:
    """Write `data` behind its SHA-256, so that :func:`read_sealed` knows it to be whole.

    Raises:
        DiskError: when it cannot be written; what was there before stays.
    """
    write_atomic(path, hashlib.sha256(data).digest() + data)


def read_sealed(path: Path) -> bytes | None:
    """What :func:`write_sealed` wrote; None where the file is missing, torn or altered."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, data = content[:_DIGEST], content[_DIGEST:]
    return data if hashlib.sha256(data).digest() == digest else None


def plain(value: Any) -> Any:
    """The same value as JSON gives it back; numbers that JSON cannot say become None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all; NaN and infinity become null.

    Raises:
        DiskError: when it cannot be written.
    """
    write_atomic(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Of a JSON file that people read as well."""
    return (json_text(value, indent=1) + "\n").encode()


def json_text(value: Any, indent: int | None = None, *, ascii_only: bool = False) -> str:
    """`value` as JSON; NaN and infinity become null.

    Text stays readable; bytes of a file's name that are no text are given back as they were.

    Args:
        value: what :func:`plain` takes.
        indent: spaces a level; None writes one line.
        ascii_only: escape all other characters, for where the encoding is not known.
    """
    # the escapes of such bytes are JSON's own
    return shown(json.dumps(plain(value), indent=indent, ensure_ascii=ascii_only, allow_nan=False))


def text_bytes(text: str) -> bytes:
    """UTF-8, with an escape for each byte of a file's name that is no text."""
    return text.encode(errors="backslashreplace")


def shown(text: str) -> str:
    """`text` as :func:`text_bytes` has it."""
    return text_bytes(text).decode()


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
    """Make the new name itself durable; not all systems can open or sync a folder."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)

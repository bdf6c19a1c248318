"""Decoded sets on disk, so that each is decoded once on a machine.

One safetensors file for each source, split and conversion, with the class names and a checksum in
its header. Files are written beside and then moved, under a lock, so that neither a kill half-way
nor a second process can leave a part of one to be read; a damaged file is decoded again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_dir
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from preimage.data.imageset import ImageSet
from preimage.data.sources import Request, Source
from preimage.types import ImageSpec

_FORMAT = "4"  # part of every key: raise it whenever decoding gives anything else
_LOCK_SECONDS = 900.0


def cache_folder() -> Path:
    """$PREIMAGE_CACHE, else the user's cache folder of this system."""
    return Path(os.environ.get("PREIMAGE_CACHE") or user_cache_dir("preimage")).expanduser()


def read_cached(source: Source, request: Request) -> ImageSet:
    """Read a set from the cache, or from its source and then store it.

    A cache that cannot be written only costs time: the set is read from its source, with a
    warning. Where the version of the source cannot be told, the copy stored last is taken.
    """
    found = _stored(source, request)
    if found is None and request.lenient:
        # where all can be read it is the same set
        found = _stored(source, replace(request, lenient=False))
    if found is not None or source.version is None:
        return found or source.read(request)
    stem, path = _places(source, request)
    with _locked(stem) as writable:
        found = _load(path) if writable else None
        if found is None:
            found = source.read(request)
            if writable:
                _store(found, path, stem)
    return found


def _stored(source: Source, request: Request) -> ImageSet | None:
    stem, path = _places(source, request)
    return _any_version(stem) if source.version is None else _load(path)


def _places(source: Source, request: Request) -> tuple[Path, Path]:
    """What the names of all versions begin with, and the file of this one."""
    stem = cache_folder() / _stem(source, request)
    version = "" if source.version is None else _digest(source.version)
    return stem, stem.with_name(f"{stem.name}-{version}.safetensors")


def _stem(source: Source, request: Request) -> str:
    readable = re.sub(r"[^A-Za-z0-9]+", "-", f"{source.name}-{request.split}").strip("-")[:60]
    wanted = (request.split, request.spec, request.labelled, request.lenient)
    what = (_FORMAT, source.name, source.identity, *wanted)
    return f"{readable}-{_digest(repr(what))}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def _versions(stem: Path) -> list[Path]:
    return list(stem.parent.glob(f"{stem.name}-*.safetensors"))


def _any_version(stem: Path) -> ImageSet | None:
    stored = map(_load, _versions(stem))
    return next((found for found in stored if found is not None), None)


def _load(path: Path) -> ImageSet | None:
    """The stored set, or None when there is none or it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
    except (OSError, SafetensorError):
        return None
    text = header.get("set", "")
    if header.get("format") != _FORMAT or header.get("checksum") != _checksum(images, labels, text):
        return None
    # cloned, since the tensors are views of the file, which others may replace
    known = json.loads(text)
    stored = None if known["stored"] is None else ImageSpec(*known["stored"])
    names = tuple(known["class_names"])
    return ImageSet(
        known["name"],
        known["split"],
        images.clone(),
        labels.clone(),
        names,
        stored,
        known["mixed"],
        tuple(known["unreadable"]),
    )


def _store(images: ImageSet, path: Path, stem: Path) -> None:
    temporary = stem.with_suffix(".tmp")
    known = {
        "name": images.name,
        "split": images.split,
        "class_names": images.class_names,
        "stored": None if images.stored is None else images.stored.shape,
        "mixed": images.mixed,
        "unreadable": images.unreadable,
    }
    text = json.dumps(known)
    checksum = _checksum(images.images, images.labels, text)
    header = {"format": _FORMAT, "checksum": checksum, "set": text}
    try:
        tensors = {"images": images.images.contiguous(), "labels": images.labels.contiguous()}
        save_file(tensors, temporary, header)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        _warn_unwritable(path.parent, str(error))
        return
    for outdated in set(_versions(stem)) - {path}:
        with suppress(OSError):
            outdated.unlink()


def _checksum(images: Tensor, labels: Tensor, text: str) -> str:
    crc = zlib.crc32(text.encode())
    for tensor in (images, labels):
        crc = zlib.crc32(tensor.contiguous().numpy().data, crc)
    return str(crc)


@contextmanager
def _locked(stem: Path) -> Iterator[bool]:
    """Hold the lock of one set; False where the cache cannot be written."""
    lock = FileLock(stem.with_suffix(".lock"), timeout=_LOCK_SECONDS)
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, Timeout) as error:
        _warn_unwritable(stem.parent, str(error))
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@cache
def _warn_unwritable(folder: Path, reason: str) -> None:
    warnings.warn(
        f"the cache folder {folder} cannot be written ({reason}), so images are decoded anew each "
        "time: set PREIMAGE_CACHE to a folder that can be",
        stacklevel=2,
    )

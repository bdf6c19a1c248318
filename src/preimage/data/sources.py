"""What a kind of source has to provide, and what the kinds share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from preimage.data.imageset import ImageSet
from preimage.errors import MissingSplitError
from preimage.types import ImageSpec

WHOLE = "all"
"""The split of a source that has no splits."""

SPLIT_NAMES = ("train", "test", "validation", "val", "valid", "dev")
"""Sub-folders and file names that are read as splits."""


@dataclass(frozen=True)
class Request:
    """What the caller wants of a source."""

    split: str
    spec: ImageSpec | None
    """Shape to convert each image to while decoding."""
    labelled: bool
    """Whether classes are needed; without them every label is -1."""
    lenient: bool = False
    """Whether images that cannot be read are left out; otherwise they are an error."""


@dataclass(frozen=True)
class Source:
    """A place that images can be read from; making one reads no image."""

    name: str
    """What the set is called."""
    identity: str
    """What is read, whatever its content: a resolved path, or a hub id."""
    version: str | None
    """Changes whenever the content does; None where that cannot be told now (no network)."""
    read: Callable[[Request], ImageSet]


@dataclass(frozen=True)
class Kind:
    """A kind of source."""

    description: str
    """The words that a message lists it by."""
    open: Callable[[str], Source | None]
    """Looks at a source's text; None where the text is not of this kind."""


def stamp(files: Iterable[Path]) -> str:
    """A text that changes when a file is added, removed, renamed or written."""
    lines = []
    for file in sorted(files):
        status = file.stat()
        lines.append(f"{file} {status.st_size} {status.st_mtime_ns}")
    return "\n".join(lines)


def choose_split(wanted: str, existing: Iterable[str], where: str) -> str:
    """The name of the split to read.

    "val", "valid" and "dev" stand for "validation". A source without splits gives "all" for every
    wish, and one without a test split its validation split for "test", with a warning.

    Raises:
        MissingSplitError: listing the splits that exist, when the wanted one does not.
    """
    names = list(existing)
    if names == [WHOLE]:
        return WHOLE
    for name in names:
        if canonical_split(name) == canonical_split(wanted):
            return name
    for name in names:
        if wanted == "test" and canonical_split(name) == "validation":
            warnings.warn(
                f"{where} has no test split, so its {name} split stands for it", stacklevel=2
            )
            return name
    raise MissingSplitError(
        f"{where} has no split {wanted!r}: ask for one of {', '.join(sorted(names))}"
    )


def canonical_split(name: str) -> str:
    """One spelling for the names that mean the same split."""
    lower = name.lower()
    return "validation" if lower in ("val", "valid", "dev") else lower

"""From the text that names a source to an image set."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from preimage.data.arrays import npz_source
from preimage.data.cache import read_cached
from preimage.data.hub import hub_id_source
from preimage.data.imageset import ImageSet, check_spec
from preimage.data.known import KNOWN, known_name, known_source
from preimage.data.local import path_source
from preimage.data.sources import WHOLE, Kind, Request, Source
from preimage.errors import PreimageError
from preimage.types import ImageSpec

KINDS: list[Kind] = [
    Kind(f"a known name ({', '.join(KNOWN)})", known_source),
    Kind("a .npz file", npz_source),
    Kind("a .parquet file, a folder of them, or a folder of class folders of images", path_source),
    Kind("a hub id (owner/name or owner/name:config)", hub_id_source),
]
"""Tried in this order; a new kind of source is one function and one line here."""


def load(
    source: str | Path,
    split: str = "test",
    *,
    spec: ImageSpec | None = None,
    labelled: bool = True,
    lenient: bool = False,
) -> ImageSet:
    """Read an image set, from the cache when it was read before.

    Args:
        source: a known name (see :data:`~preimage.data.known.KNOWN`), found in the folder
            $PREIMAGE_DATA or else on the hub; a folder with a sub-folder of images for each class,
            if need be below train/ and test/; a .parquet file or a folder of them; a .npz file; a
            hub id owner/name or owner/name:config. Write ./mnist for a folder called like a known
            name.
        split: which part. A source without splits gives all it has for any split, and says so in
            :attr:`ImageSet.split`.
        spec: shape to convert every image to while decoding; without it the images must have one
            size. See :func:`~preimage.data.imageset.convert_images`.
        labelled: False also takes images without classes; all labels are then -1.
        lenient: leave out files, or rows of a table, that cannot be read as images, and say why in
            :attr:`ImageSet.unreadable`; for images without classes alone.

    Raises:
        PreimageError: a source, split, image or label that cannot be used, or `lenient` with
            labels.
    """
    if lenient and labelled:
        raise PreimageError(
            "expected lenient=True without labels, found it with labels; set labelled=False as well"
        )
    if spec is not None:
        check_spec(spec)
    source = os.fspath(source)
    images = read_cached(_find(source), Request(split, spec, labelled, lenient))
    if labelled and images.split == WHOLE != split:
        warnings.warn(
            f"{source} has no splits, so all of its {len(images)} images stand for {split!r}",
            stacklevel=2,
        )
    moved = _moved_number(images.class_names)
    if moved is not None:
        warnings.warn(
            f"the classes of {source} are named by numbers and come in the order of text, so "
            f"'{images.class_names[moved]}' is class {moved}; if that is not the classifier's "
            "order, write all names in as many digits (002, 010)",
            stacklevel=2,
        )
    return images


def _moved_number(names: Sequence[str]) -> int | None:
    """The first class that would be another one in the order of numbers, where all are numbers."""
    if not all(name.isdecimal() for name in names):
        return None
    counted = sorted(names, key=int)
    return next((k for k, name in enumerate(names) if name != counted[k]), None)


def _find(source: str) -> Source:
    for kind in KINDS:
        found = kind.open(source)
        if found is not None:
            if kind.open is known_source and Path(source).is_dir():
                warnings.warn(
                    f"'{source}' is the known data set of that name, not the folder; write "
                    f"./{source} for the folder",
                    stacklevel=3,
                )
            return found
    near = difflib.get_close_matches(known_name(source), KNOWN, n=2)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    kinds = "; ".join(kind.description for kind in KINDS)
    raise PreimageError(f"there is no image set {source!r}{hint}: give one of: {kinds}")

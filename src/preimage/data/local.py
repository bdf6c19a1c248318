"""Folders of images and parquet files on this machine."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from preimage.data.decode import no_file, none_readable
from preimage.data.imageset import ImageSet
from preimage.data.sources import SPLIT_NAMES, WHOLE, Request, Source, canonical_split, stamp
from preimage.data.table import guarded, read_table
from preimage.errors import PreimageError

_IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm", ".pbm")
)
_SHARD = re.compile(r"(\w+)-\d{5}-of-\d{5}\.parquet")  # the hub's naming, any split name


def path_source(source: str) -> Source | None:
    """A parquet file, a folder of parquet files, or a folder of images.

    Raises:
        PreimageError: for any other file, and a folder that holds nothing of these.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".parquet":
        return parquet_source(path, path.stem)
    if path.is_file():
        raise PreimageError(
            f"expected a folder of images, a .parquet or .npz file or the name of a data set, "
            f"found the single file '{source}'; put it into a folder, or score it with "
            "`preimage ood score`"
        )
    if not source or not path.is_dir():
        return None
    if any(file.suffix == ".parquet" for file in _files(path)):
        return parquet_source(path, path.resolve().name)
    return _image_folder(path)


def parquet_source(path: Path, name: str, label: str | None = None) -> Source:
    """One parquet file, or a folder of them split by sub-folder or by the start of the file name.

    Args:
        path: file or folder.
        name: what the set is called.
        label: the label column; found by its type when None.

    Raises:
        PreimageError: where a file is a link to nothing, or no file that data can lie in.
    """
    root = path.resolve()
    files = [root] if root.is_file() else [f for f in _files(root) if f.suffix == ".parquet"]
    for missing in filter(None, map(no_file, files)):
        raise PreimageError(missing)

    def read(request: Request) -> ImageSet:
        splits: dict[str, list[str]] = {}
        for file in files:
            split = WHOLE if file == root else _parquet_split(file, root)
            splits.setdefault(split, []).append(glob.escape(str(file)))
        return guarded(
            lambda: read_table(_stream("parquet", splits), request, name, label), str(path)
        )

    return Source(name, f"{root}:{label}", stamp(files), read)


def image_files(folder: Path) -> list[Path]:
    """Files below a folder that are named like images, in a fixed order, none hidden."""
    return files_by_name(folder)[0]


def files_by_name(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files below a folder: those that are named like images, and the others; none hidden."""
    images: list[Path] = []
    others: list[Path] = []
    for file in _files(folder):
        (images if file.suffix.lower() in _IMAGE_SUFFIXES else others).append(file)
    return images, others


def _image_folder(path: Path) -> Source:
    root = path.resolve()
    named = image_files(root)
    if not named:
        found = "holds no image" if any(root.iterdir()) else "is empty"
        raise PreimageError(
            f"folder {path} {found}: give one with a sub-folder of images for each class"
        )
    missing = {file: reason for file in named if (reason := no_file(file))}
    files = [file for file in named if file not in missing]

    def read(request: Request) -> ImageSet:
        if missing and not request.lenient:
            raise PreimageError(next(iter(missing.values())))
        if not files:
            raise none_readable(str(path), list(missing.values()))
        roots = _split_folders(root, files)
        stray = [file for file in files if file.parent.parent not in roots.values()]
        if request.labelled and stray:
            raise PreimageError(
                f"{stray[0]} is not right inside a class folder: sort the images of {path} into "
                "one sub-folder for each class, or load it without labels"
            )
        patterns = {top: _patterns(files, folder) for top, folder in roots.items()}
        options = {"drop_labels": not request.labelled, "drop_metadata": True}
        images = guarded(
            lambda: read_table(_stream("imagefolder", patterns, **options), request, root.name),
            str(path),
        )
        expected = sum(file.is_relative_to(roots[images.split]) for file in files)
        if len(images) + len(images.unreadable) != expected:
            raise PreimageError(
                f"{len(images)} images could be read from {path} where {expected} files were "
                f"expected: keep only {', '.join(sorted(_IMAGE_SUFFIXES))} files there, and "
                "no []*? in folder names"
            )
        left_out = [missing[file] for file in missing if file.is_relative_to(roots[images.split])]
        return replace(images, unreadable=(*images.unreadable, *left_out))

    version = "\n".join([stamp(files), *map(str, missing)])
    return Source(root.name, str(root), version, read)


def _split_folders(root: Path, files: list[Path]) -> dict[str, Path]:
    """Folder of each split, when all images are below folders called like splits."""
    tops = {file.relative_to(root).parts[0] for file in files}
    if all(canonical_split(top) in SPLIT_NAMES for top in tops):
        return {top: root / top for top in sorted(tops)}
    return {WHOLE: root}


def _patterns(files: list[Path], top: Path) -> list[str]:
    """One pattern for each folder; unlike a recursive one, these follow links to folders."""
    folders = sorted({file.parent for file in files if file.is_relative_to(top)})
    return [f"{glob.escape(str(folder))}/*" for folder in folders]


def _stream(builder: str, files: dict[str, list[str]], **options: Any) -> Any:
    from datasets import load_dataset

    # streaming reads the files where they lie, and the folder takes what is written nonetheless:
    # otherwise a second copy of all images, or litter, goes to the home folder
    with TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        return load_dataset(builder, data_files=files, streaming=True, cache_dir=scratch, **options)


def _parquet_split(file: Path, root: Path) -> str:
    shard = _SHARD.fullmatch(file.name)
    if shard:
        return shard[1]
    starts = [re.split(r"[-_.]", file.name)[0], *file.relative_to(root).parts[:-1]]
    return next((start for start in starts if canonical_split(start) in SPLIT_NAMES), WHOLE)


def _files(root: Path) -> Iterator[Path]:
    """Files below a folder in a fixed order, without hidden ones, as `datasets` sees them."""
    above: dict[Path, set[tuple[int, int]]] = {}
    for top, folders, names in os.walk(root, followlinks=True):
        folder = Path(top)
        # a link to a folder that it lies in would be followed for ever
        above[folder] = above.get(folder.parent, set()) | {_identity(folder)}
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith((".", "__")) and _identity(folder / name) not in above[folder]
        )
        for name in sorted(names):
            if not name.startswith((".", "__")):
                yield folder / name


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino

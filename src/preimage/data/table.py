"""Tables with an image column and a label column, read through the `datasets` library."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeVar

import torch
from torch import Tensor

from preimage.data.decode import Encoded, decode
from preimage.data.imageset import ImageSet
from preimage.data.labels import check_labels, encode_labels
from preimage.data.sources import Request, choose_split
from preimage.errors import PreimageError

_IMAGE_NAMES = ("image", "img", "images", "pixel_values")
_LABEL_NAMES = ("label", "labels", "fine_label", "target", "class", "y")
_BATCH = 1024

T = TypeVar("T")


def read_table(
    splits: Mapping[str, Any], request: Request, name: str, label: str | None = None
) -> ImageSet:
    """Decode one split of a table.

    Args:
        splits: `datasets` tables (map-style or iterable) by split name.
        request: what is wanted.
        name: what the set is called.
        label: the label column; found by its type when None.

    Raises:
        PreimageError: bad images or labels, a missing split, no column that fits.
    """
    split = choose_split(request.split, splits, name)
    table, where = splits[split], f"{name} ({split})"
    features = table.features
    image = _image_column(features, where)
    found = decode(_encoded(table, image), where, request.spec, lenient=request.lenient)
    images, told = found.images, found[1:]
    if not request.labelled:
        return ImageSet(name, split, images, torch.full((len(images),), -1), (), *told)
    label = label or _label_column(features, where)
    labels, names = _labels(splits, split, label, where)
    return ImageSet(name, split, images, labels, names, *told)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar and no chatter from `datasets` and the hub's client meanwhile."""
    import datasets

    hub = import_module("huggingface_hub.utils")  # exports these, but not to a type checker

    bars = not datasets.are_progress_bars_disabled()
    hub_bars = not hub.are_progress_bars_disabled()
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    datasets.disable_progress_bars()
    hub.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()
        if hub_bars:
            hub.enable_progress_bars()


def guarded(action: Callable[[], T], where: str) -> T:
    """Run what reads through `datasets`; its failures become one sentence."""
    import pyarrow
    from datasets.exceptions import DatasetsError

    try:
        with quiet():
            return action()
    # what is of different types in two files is a TypeError
    except (OSError, ValueError, TypeError, DatasetsError, pyarrow.ArrowException) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise PreimageError(
            f"{where} cannot be read as a table of images ({reason[0]}): check that the files are "
            "whole and of one schema"
        ) from error


def _image_column(features: Mapping[str, Any], where: str) -> str:
    from datasets import Image, Value

    found = [key for key, kind in features.items() if isinstance(kind, Image)]
    if not found:  # files written without the hub's metadata hold the same column as plain bytes
        found = [
            key
            for key, kind in features.items()
            if kind in (Value("binary"), Value("large_binary"))
            or (isinstance(kind, dict) and {"bytes", "path"} == set(kind))
        ]
    return _pick(found, _IMAGE_NAMES, "image", features, where)


def _label_column(features: Mapping[str, Any], where: str) -> str:
    from datasets import ClassLabel, Value

    found = [key for key, kind in features.items() if isinstance(kind, ClassLabel)]
    if not found:
        found = [
            key
            for key, kind in features.items()
            if isinstance(kind, Value) and ("int" in kind.dtype or "string" in kind.dtype)
        ]
    return _pick(found, _LABEL_NAMES, "label", features, where)


def _pick(
    found: list[str], preferred: Sequence[str], role: str, features: Mapping[str, Any], where: str
) -> str:
    if len(found) == 1:
        return found[0]
    for name in preferred:
        if name in found:
            return name
    raise PreimageError(
        f"{where} has {'several columns' if found else 'no column'} that could be the {role} "
        f"among {', '.join(features)}: call it {preferred[0]!r}"
    )


def _encoded(table: Any, column: str) -> Iterator[Encoded]:
    from datasets import Image

    images = table.select_columns([column]).cast_column(column, Image(decode=False))
    row = 0
    for batch in images.with_format("arrow").iter(_BATCH):
        for item in batch[column].to_pylist():
            item = item or {}
            yield Encoded(item.get("bytes"), item.get("path"), row)
            row += 1


def _labels(
    splits: Mapping[str, Any], split: str, column: str, where: str
) -> tuple[Tensor, tuple[str, ...]]:
    from datasets import ClassLabel

    kind = splits[split].features.get(column)
    if kind is None:
        raise PreimageError(f"{where} has no label column {column!r}: rename the one it has")
    values = list(_values(splits[split], column))
    if isinstance(kind, ClassLabel):
        names = tuple(kind.names)
        return check_labels(values, names, where), names
    everywhere = set(values)
    for other, table in splits.items():
        if other != split and column in table.features:
            everywhere.update(_values(table, column))
    return encode_labels(values, list(everywhere), where)


def _values(table: Any, column: str) -> Iterator[Any]:
    for batch in table.select_columns([column]).with_format("arrow").iter(_BATCH):
        yield from batch[column].to_pylist()

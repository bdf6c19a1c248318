"""The sets of images that `preimage ood eval` and the audit compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from preimage.data import ImageSet, load
from preimage.data.known import known_name
from preimage.data.order import of_classes
from preimage.digest import images_digests
from preimage.ood.evaluation import Unknown
from preimage.ood.synthetic import make_synthetic
from preimage.runtime import stream
from preimage.types import ImageSpec


def known_set(
    source: str, spec: ImageSpec, class_names: Sequence[str], *, most: int, seed: int
) -> ImageSet:
    """Test images of the classes, in the classifier's shape.

    Args:
        source: a data set.
        spec: the classifier's shape.
        class_names: the classifier's.
        most: images at most.
        seed: of the choice of images.

    Raises:
        PreimageError: for a source that cannot be read, or has another number of classes.
    """
    known = load(source, "test", spec=spec)
    known = of_classes(known, class_names, source=source, what="known images")
    return _some(known, most, seed)


def unknown_sets(
    sources: Sequence[str],
    known: ImageSet,
    spec: ImageSpec,
    *,
    synthetic: Sequence[str],
    most: int,
    seed: int,
) -> Iterator[Unknown]:
    """Sets of images that are none of the classes, in the classifier's shape.

    Args:
        sources: data sets, folders of images or parquet files. Of two with one name the later
            is called by all of its source.
        known: in-distribution images, which synthetic sets take after.
        spec: the classifier's shape.
        synthetic: names of sets made by code to add, see
            :func:`preimage.ood.synthetic.synthetic_names`.
        most: images of each set at most.
        seed: of the synthetic sets and of every choice of images.

    Yields:
        One set after the other, each made when it is asked for: all at once may not fit in memory.
        Images that cannot be read are left out; its `unreadable` says why.

    Raises:
        PreimageError: for a source of which nothing can be read.
    """
    names: set[str] = set()
    for source in sources:
        images = _some(_unlabelled(source, spec), most, seed)
        name = source if images.name in names else images.name
        names.add(name)
        yield Unknown(name, images, images.stored or spec, real=True)
    for name in synthetic:
        images = make_synthetic(name, known, seed)
        yield Unknown(images.name, images, spec, real=False)


def same_source(one: str, other: str) -> bool:
    """Whether two texts name one source of images."""
    return _identity(one) == _identity(other)


def _identity(source: str) -> str:
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else known_name(source)


def check_unknown(sources: Sequence[str], spec: ImageSpec) -> dict[str, str | None]:
    """Read every source once, so that one that cannot be used is told before any work.

    Args:
        sources: as for :func:`unknown_sets`.
        spec: the classifier's shape.

    Returns:
        What tells each from others of its name, see :func:`preimage.digest.images_digests`.

    Raises:
        PreimageError: for a source of which nothing can be read.
    """
    digests: dict[str, str | None] = {}
    for source in sources:
        digests |= images_digests(**{f"--ood {source}": _unlabelled(source, spec)})
    return digests


def _unlabelled(source: str, spec: ImageSpec) -> ImageSet:
    """In the classifier's shape from the start: photographs in their own may not fit in memory."""
    return load(source, "test", spec=spec, labelled=False, lenient=True)


def _some(images: ImageSet, most: int, seed: int) -> ImageSet:
    random = stream(seed, "ood eval", images.name)
    return images.subset(torch.randperm(len(images), generator=random)[:most])

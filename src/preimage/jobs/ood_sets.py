"""The sets of images that `preimage ood eval` and the audit compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple

import torch

from preimage.data import ImageSet, load
from preimage.data.order import of_classes
from preimage.data.overlap import digests, not_among
from preimage.digest import images_digests
from preimage.errors import PreimageError
from preimage.ood.evaluation import Unknown
from preimage.ood.synthetic import make_synthetic
from preimage.runtime import stream
from preimage.types import ImageSpec


class KnownImages(NamedTuple):
    """Images of the classes, in the classifier's shape."""

    images: ImageSet
    """Those to measure."""
    digests: frozenset[bytes]
    """Of all that there are, see :func:`preimage.data.overlap.digests`."""


def known_set(
    source: str, spec: ImageSpec, class_names: Sequence[str], *, most: int, seed: int
) -> KnownImages:
    """Test images of the classes, in the classifier's shape.

    Args:
        source: a data set.
        spec: the classifier's shape.
        class_names: the classifier's.
        most: images to measure at most.
        seed: of the choice of images.

    Raises:
        PreimageError: for a source that cannot be read, or has another number of classes.
    """
    known = load(source, "test", spec=spec)
    known = of_classes(known, class_names, source=source, what="known images")
    return KnownImages(_some(known, most, seed), digests(known))


def unknown_sets(
    sources: Sequence[str],
    known: KnownImages,
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
        known: in-distribution images, which synthetic sets take after. Unknown images that are
            among all of them, to the byte, are left out, and counted in `shared`.
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
        found = _unlabelled(source, spec)
        new = not_among(known.digests, found)
        images = _some(new, most, seed)
        name = source if images.name in names else images.name
        names.add(name)
        shared = len(found) - len(new)
        yield Unknown(name, images, images.stored or spec, real=True, shared=shared)
    for name in synthetic:
        images = make_synthetic(name, known.images, seed)
        yield Unknown(images.name, images, spec, real=False)


def check_unknown(
    sources: Sequence[str], known: Set[bytes], spec: ImageSpec
) -> dict[str, str | None]:
    """Read every source once, so that one that cannot be used is told before any work.

    Args:
        sources: as for :func:`unknown_sets`.
        known: digests of all known images.
        spec: the classifier's shape.

    Returns:
        What tells each from others of its name, see :func:`preimage.digest.images_digests`.

    Raises:
        PreimageError: for a source of which nothing can be read, or one that is mostly known
            images, under whatever name.
    """
    told: dict[str, str | None] = {}
    for source in sources:
        images = _unlabelled(source, spec)
        shared = len(images) - len(not_among(known, images))
        if 2 * shared > len(images):
            raise PreimageError(
                f"expected --ood to name images that are not known, found {shared} of the "
                f"{len(images)} in '{source}' among the known ones, to the byte; leave it out"
            )
        told |= images_digests(**{f"--ood {source}": images})
    return told


def _unlabelled(source: str, spec: ImageSpec) -> ImageSet:
    """In the classifier's shape from the start: photographs in their own may not fit in memory."""
    return load(source, "test", spec=spec, labelled=False, lenient=True)


def _some(images: ImageSet, most: int, seed: int) -> ImageSet:
    random = stream(seed, "ood eval", images.name)
    return images.subset(torch.randperm(len(images), generator=random)[:most])

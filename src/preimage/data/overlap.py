"""Training images beside held-out ones: of one kind, and which are in both."""

from __future__ import annotations

import hashlib
from collections.abc import Set
from typing import NamedTuple

import torch
from torch import Tensor

from preimage.data.imageset import ImageSet
from preimage.errors import PreimageError

_MEDIANS = 1.25
"""By how much the median sizes of two groups of several sizes may differ."""


def check_alike(train: ImageSet, heldout: ImageSet) -> None:
    """See that held-out images are of the training images' shape and classes.

    Raises:
        PreimageError: where they are not.
    """
    if (heldout.spec, heldout.classes) != (train.spec, train.classes):
        raise PreimageError(
            f"expected held-out images {train.spec} of {train.classes} classes, as the training "
            f"images are, found {heldout.spec} of {heldout.classes}; give images of the same kind"
        )


def check_stored_alike(train: ImageSet, heldout: ImageSet) -> None:
    """See that held-out images were stored in the training images' size.

    From another size they come with another blur, which tells the groups apart whatever a
    classifier knows. Of several sizes it is the medians that are compared. Where both groups have
    several, these differ by chance: by a quarter hardly ever, of 100 images of each and sizes that
    spread by half.

    Raises:
        PreimageError: where they were not; nothing where a source does not tell.
    """
    if train.stored is None or heldout.stored is None:
        return
    sizes = [(one.stored.height, one.stored.width) for one in (train, heldout) if one.stored]
    ratio = max(max(a / b, b / a) for a, b in zip(*sizes, strict=True))
    if ratio > (_MEDIANS if train.mixed and heldout.mixed else 1):
        raise PreimageError(
            f"expected held-out images stored in the training images' size, {_size(train)}, found "
            f"{_size(heldout)}; brought to one size they would differ in blur alone, so give "
            "images that come in the same size"
        )


def check_coloured_alike(train: ImageSet, heldout: ImageSet) -> None:
    """See that not all of one group are grey where most of the other are in colour.

    Raises:
        PreimageError: where they are.
    """
    grey = _grey_share(train), _grey_share(heldout)
    if max(grey) == 1 and min(grey) < 0.5:
        sides = ("grey", "colour") if grey[0] == 1 else ("colour", "grey")
        raise PreimageError(
            f"expected held-out images in {sides[0]}, as the training images are, found "
            f"{sides[1]}; that alone tells the groups apart, so give images of the same kind"
        )


def _grey_share(images: ImageSet) -> float:
    """Share of the images whose channels are all equal."""
    pixels = images.images
    # a channel at a time: a comparison of all at once takes as much memory as the images
    alike = torch.ones(len(pixels), dtype=torch.bool)
    for channel in range(1, images.spec.channels):
        alike &= (pixels[:, 0] == pixels[:, channel]).flatten(1).all(1)
    return float(alike.double().mean())


def _size(images: ImageSet) -> str:
    assert images.stored is not None
    size = f"{images.stored.height}x{images.stored.width}"
    return f"several with a median of {size}" if images.mixed else size


class Apart(NamedTuple):
    """Two sets of images that share none."""

    one: ImageSet
    other: ImageSet
    shared: int
    """Images of the other set that were left out because the one has them as well."""
    repeated: int
    """Images of both that were left out because an equal one comes before it in its set."""


def apart(one: ImageSet, other: ImageSet) -> Apart:
    """Those of each set that are not, to the byte, in the other of the same shape.

    Of those that are equal within a set the first is taken; the order stays.
    """
    first, second = _digests(one.images), _digests(other.images)
    both = set(first) & set(second)
    rows = [_first_rows(own, both) for own in (first, second)]
    alone = sum(digest not in both for digest in (*first, *second))
    return Apart(
        one.subset(rows[0]),
        other.subset(rows[1]),
        shared=sum(digest in both for digest in second),
        repeated=alone - sum(map(len, rows)),
    )


def not_among(known: ImageSet | Set[bytes], images: ImageSet) -> ImageSet:
    """Those of `images` that are not, to the byte, among `known` of the same shape, in order.

    Args:
        known: images, or the :func:`digests` of them.
        images: of the same shape.
    """
    if isinstance(known, ImageSet):
        known = digests(known)
    return _without(images, _digests(images.images), known)


def digests(images: ImageSet) -> frozenset[bytes]:
    """What tells each of the images from others of its shape; 32 bytes each."""
    return frozenset(_digests(images.images))


def _first_rows(own: list[bytes], known: Set[bytes]) -> Tensor:
    """Rows of the first of each kind of image that is not known, in order."""
    rows: dict[bytes, int] = {}
    for row, digest in enumerate(own):
        if digest not in known:
            rows.setdefault(digest, row)
    return torch.tensor(list(rows.values()), dtype=torch.long)


def _without(images: ImageSet, own: list[bytes], known: Set[bytes]) -> ImageSet:
    new = torch.tensor([digest not in known for digest in own])
    return images.subset(new.nonzero().flatten())


def _digests(images: Tensor) -> list[bytes]:
    """SHA-256 of each image (N, C, H, W) uint8."""
    return [hashlib.sha256(image.numpy().tobytes()).digest() for image in images.contiguous()]

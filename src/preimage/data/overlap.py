"""Training images beside held-out ones: of one kind, and which are in both."""

from __future__ import annotations

import hashlib
from collections.abc import Set

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


def apart(one: ImageSet, other: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Those of each set that are not, to the byte, in the other of the same shape, in order."""
    first, second = _digests(one.images), _digests(other.images)
    return _without(one, first, set(second)), _without(other, second, set(first))


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


def each_once(images: ImageSet) -> ImageSet:
    """The first of those that are equal to the byte, in order."""
    own = _digests(images.images)
    first = {digest: row for row, digest in reversed(list(enumerate(own)))}
    return images if len(first) == len(own) else images.subset(torch.tensor(sorted(first.values())))


def _without(images: ImageSet, own: list[bytes], known: Set[bytes]) -> ImageSet:
    new = torch.tensor([digest not in known for digest in own])
    return images.subset(new.nonzero().flatten())


def _digests(images: Tensor) -> list[bytes]:
    """SHA-256 of each image (N, C, H, W) uint8."""
    return [hashlib.sha256(image.numpy().tobytes()).digest() for image in images.contiguous()]

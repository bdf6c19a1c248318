"""Whether two sides mean the same class by the same number, as far as their names tell."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch

from preimage.data.imageset import ImageSet
from preimage.errors import PreimageError


def in_order(images: ImageSet, names: Sequence[str], whose: str) -> ImageSet:
    """The images with the classes in the order of `names`.

    Class folders are numbered by their sorted names, hub sets and trained classifiers in orders of
    their own. Where both sides have the same names the classes are matched by name, with a warning
    if that changes their numbers. Numbers as names tell nothing, and other words for the same
    class (car, automobile) may well be meant: both are left as they are.

    Args:
        images: a labelled set.
        names: class k is to be the one that is called names[k].
        whose: what has that order, for a message, such as "the classifier".

    Raises:
        PreimageError: where a class of one name has two numbers and the other names differ, so
            that matching by name would be a guess.
    """
    moved = moved_classes(names, images.class_names)
    if not moved:
        return images
    wanted, found = _keys(names), _keys(images.class_names)
    if set(wanted) != set(found):
        raise PreimageError(
            f"expected the classes of '{images.name}' in the order of {whose}'s, found "
            f"{moved[0]}; name all classes alike on both sides, or put them in one order"
        )
    warnings.warn(
        f"the classes of '{images.name}' come in another order than {whose}'s ({moved[0]}), so "
        "they are matched by name",
        stacklevel=2,
    )
    number = torch.tensor([wanted.index(key) for key in found])
    return replace(images, labels=number[images.labels], class_names=tuple(names))


def of_classes(images: ImageSet, names: Sequence[str], *, source: str, what: str) -> ImageSet:
    """The images, of as many classes as the classifier has, in its order (`in_order`).

    Args:
        images: a labelled set.
        names: the classifier's class names.
        source: where the images come from, for a message.
        what: the images are, for a message, such as "known images".

    Raises:
        PreimageError: for another number of classes, or names that contradict the classifier's.
    """
    if images.classes != len(names):
        raise PreimageError(
            f"expected {what} of {len(names)} classes, as the classifier has, found "
            f"{images.classes} in '{source}'; give the data that it was trained on, or data of "
            "its kind"
        )
    return in_order(images, names, "the classifier")


def moved_classes(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Each class that both sides name but number differently, in words; none if names are numbers.

    Args:
        names: of one side, in its order.
        others: of the other.
    """
    wanted, found = _keys(names), _keys(others)
    told = not any(all(key.isdecimal() for key in keys) for keys in (wanted, found))
    unique = len(set(wanted)) == len(wanted) == len(found) == len(set(found))
    if not (told and unique):
        return []
    return [
        f"'{others[k]}' as class {k} instead of {wanted.index(key)}"
        for k, key in enumerate(found)
        if key in wanted and wanted.index(key) != k
    ]


def _keys(names: Sequence[str]) -> list[str]:
    """What is left of each name without case, spaces and punctuation."""
    return ["".join(c for c in name.casefold() if c.isalnum()) or name for name in names]

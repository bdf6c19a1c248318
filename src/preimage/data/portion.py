"""A part of an image set: a few of each class, some held out, or two classes for many."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from preimage.data.films import films, one_of_each_film
from preimage.data.imageset import ImageSet
from preimage.errors import PreimageError
from preimage.runtime import stream


def few_images(images: ImageSet, limit: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """Draw a few images, and as many others of the same classes; of films, a frame of each.

    Two frames of a film are nearly one image: the others would show what was trained on.

    Args:
        images: what to draw from.
        limit: images in each part, spread evenly over the classes; at least one a class.
        seed: of the draw.

    Returns:
        Two parts without a common row, each ordered by class.

    Raises:
        PreimageError: for a limit below the number of classes, or too few images of a class.
    """
    if limit < images.classes:
        raise PreimageError(
            f"expected --limit of at least {images.classes}, one image of each class, found "
            f"{limit}; raise it"
        )
    given, images = len(images), one_of_each_film(images, seed)
    of_films = " when one frame of each film is taken" if len(images) < given else ""
    order = torch.randperm(len(images), generator=stream(seed, "few images"))
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for label in range(images.classes):
        rows = order[images.labels[order] == label]
        count = limit // images.classes + (label < limit % images.classes)
        if len(rows) < 2 * count:
            raise PreimageError(
                f"expected at least {2 * count} images of class '{images.class_names[label]}', "
                f"half of them to leave out, found {len(rows)}{of_films}; lower --limit"
            )
        parts[0].append(rows[:count])
        parts[1].append(rows[count : 2 * count])
    used, others = (images.subset(torch.cat(part)) for part in parts)
    return used, others


class HeldOut(NamedTuple):
    """Two parts of an image set, both in random order."""

    rest: ImageSet
    out: ImageSet
    films: Tensor | None
    """(N,) int64, the same number for those of `out` that are frames of one film; None where the
    images are no frames."""


def hold_out(images: ImageSet, count: int, seed: int) -> HeldOut:
    """Split off some images at random; of images that are frames of films, whole films.

    Args:
        images: what to split.
        count: images to split off, at most a fifth of all; with whole films it may be a few more.
            Of each class some film stays; where fewer than half of `count` are in films that can
            be spared, single images are drawn.
        seed: of the draw.

    Raises:
        PreimageError: for fewer than five images.
    """
    count = min(count, len(images) // 5)
    if count < 1:
        raise PreimageError(
            f"expected at least 5 images, to hold some out, found {len(images)}; give more"
        )
    random = stream(seed, "validation")
    order = torch.randperm(len(images), generator=random)
    of_film = films(images)
    if of_film is not None:
        out = torch.isin(of_film, _some_films(of_film, images.labels, count, random))[order]
        if 2 * int(out.sum()) >= count:
            rows = order[out]
            return HeldOut(images.subset(order[~out]), images.subset(rows), of_film[rows])
        of_film = of_film[order[:count]]
    return HeldOut(images.subset(order[count:]), images.subset(order[:count]), of_film)


def _some_films(of_film: Tensor, labels: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Numbers of films of at least `count` images together, but never all of a class."""
    sizes = torch.bincount(of_film)
    label = torch.zeros_like(sizes).scatter_(0, of_film, labels)
    left = torch.bincount(label)
    chosen, images = [], 0
    for film in torch.randperm(len(sizes), generator=random).tolist():
        if images >= count:
            break
        if left[label[film]] > 1:
            left[label[film]] -= 1
            chosen.append(film)
            images += int(sizes[film])
    return torch.tensor(chosen, dtype=torch.long)


def two_classes(images: ImageSet, positive: Sequence[int]) -> ImageSet:
    """The same images in two classes: 1 for the classes in `positive`, 0 for all others.

    Raises:
        PreimageError: unless some classes are positive and some are not.
    """
    chosen = set(positive)
    others = set(range(images.classes)) - chosen
    if not chosen or not others or not chosen < set(range(images.classes)):
        raise PreimageError(
            f"expected --positive to name some classes out of 0 to {images.classes - 1} and not "
            f"all of them, found {', '.join(map(str, positive)) or 'none'}; change it"
        )
    labels = torch.isin(images.labels, torch.tensor(sorted(chosen))).long()
    names = [" or ".join(images.class_names[k] for k in sorted(side)) for side in (others, chosen)]
    return replace(images, labels=labels, class_names=tuple(names))


def to_npz(train: ImageSet, test: ImageSet) -> bytes:
    """Both as a .npz file that :func:`~preimage.data.load` reads as the splits train and test.

    It also tells the shape that the training images were stored in.
    """
    file = io.BytesIO()
    stored = train.stored or train.spec
    np.savez_compressed(
        file,
        x_train=train.images.numpy(),
        y_train=train.labels.numpy(),
        x_test=test.images.numpy(),
        y_test=test.labels.numpy(),
        stored_shape=np.array([*stored.shape, train.mixed]),
    )
    return file.getvalue()

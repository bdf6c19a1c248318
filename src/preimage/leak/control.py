"""Training and held-out images, as many of each and none in both."""

from __future__ import annotations

from typing import NamedTuple

import torch

from preimage.data import ImageSet
from preimage.data.films import films
from preimage.data.overlap import not_among
from preimage.errors import PreimageError
from preimage.leak.verdict import FEWEST
from preimage.runtime import stream


class Groups(NamedTuple):
    """What reconstructions are compared with."""

    train: ImageSet
    control: ImageSet
    """Held out; as many as `train`."""
    shared: int
    """Held-out images that were left out because they are training images as well."""


def pair(train: ImageSet, heldout: ImageSet, most: int, seed: int = 0) -> Groups:
    """Choose as many training as held-out images at random.

    Images that are equal to the byte in both are left out of the held-out ones: they would count as
    unseen, and are not. Of the frames of a film (:func:`preimage.data.films.films`) one is taken:
    images can change places between the groups only if each says something of its own.

    Args:
        train: images that the classifier was trained on.
        heldout: others of the same distribution, shape and classes.
        most: on each side at most.
        seed: of the choice.

    Raises:
        PreimageError: for sets of different shapes or classes, or too few held-out images.
    """
    if (train.spec, train.classes) != (heldout.spec, heldout.classes):
        raise PreimageError(
            f"expected held-out images {train.spec} of {train.classes} classes, as the training "
            f"images are, found {heldout.spec} of {heldout.classes}; give images of the same kind"
        )
    unseen = not_among(train, heldout)
    shared = len(heldout) - len(unseen)
    train, unseen = one_of_each_film(train, seed), one_of_each_film(unseen, seed)
    count = min(len(train), len(unseen), most)
    if count < FEWEST:
        raise PreimageError(
            f"expected at least {FEWEST} training and {FEWEST} held-out images for a test, found "
            f"{len(train)} and {len(unseen)} that are not among them (at most {most} are used, and "
            "one frame of a film); give more"
        )
    return Groups(
        _some(train, count, stream(seed, "training images")),
        _some(unseen, count, stream(seed, "held-out images")),
        shared,
    )


def one_of_each_film(images: ImageSet, seed: int) -> ImageSet:
    """A random frame of each film, in the order of the source; all images where none are films."""
    of_film = films(images)
    if of_film is None:
        return images
    order = torch.randperm(len(images), generator=stream(seed, "frames"))
    frame = torch.empty(int(of_film.max()) + 1, dtype=torch.long)
    frame[of_film[order]] = order
    return images.subset(frame.sort().values)


def _some(images: ImageSet, count: int, random: torch.Generator) -> ImageSet:
    return images.subset(torch.randperm(len(images), generator=random)[:count])

"""Training and held-out images, as many of each and none in both."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from preimage.data import ImageSet
from preimage.data.films import one_of_each_film
from preimage.data.overlap import apart, check_alike, check_coloured_alike, check_stored_alike
from preimage.errors import PreimageError
from preimage.leak.verdict import FEWEST
from preimage.runtime import stream


class Groups(NamedTuple):
    """What reconstructions are compared with."""

    train: ImageSet
    control: ImageSet
    """Held out; as many as `train`, of each class."""
    shared: int
    """Held-out images that were left out because they are training images as well."""
    known: int = 0
    """Training images before any were chosen or left out."""
    repeated: int = 0
    """Images of both sides that were left out because an equal one is on the same side."""
    films: bool = False
    """Whether frames of films were found on one side alone: there, several may be of one film."""

    @property
    def labels(self) -> Tensor:
        """Classes of both, one after the other."""
        return torch.cat([self.train.labels, self.control.labels])


def pair(train: ImageSet, heldout: ImageSet, most: int, seed: int = 0) -> Groups:
    """Choose as many training as held-out images of each class at random.

    If the classifier tells nothing, an image must be as likely in one group as in the other. So
    images that are equal to the byte in both are left out of both, since a held-out one was seen
    and a training one without its twin would have none to change places with; the classes are as
    frequent on both sides; and as each image is to say something of its own, one is taken of those
    that are equal on one side, and one of the frames of a film
    (:func:`preimage.data.films.films`).

    Args:
        train: images that the classifier was trained on.
        heldout: others of the same distribution, shape and classes.
        most: on each side at most.
        seed: of the choice.

    Raises:
        PreimageError: for sets of different shapes or classes, sets that were stored in different
            sizes or of which one is grey, or too few held-out images.
    """
    check_alike(train, heldout)
    check_stored_alike(train, heldout)
    check_coloured_alike(train, heldout)
    seen, unseen, shared, repeated = apart(train, heldout)
    used, control = one_of_each_film(seen, seed), one_of_each_film(unseen, seed)
    each = _each_class(used, control, most, seed)
    count = int(each.sum())
    if count < FEWEST:
        raise PreimageError(
            f"expected at least {FEWEST} training and as many held-out images of the same classes "
            f"for a test, found {count} among {len(seen)} and {len(unseen)} different ones that "
            f"are on one side alone (at most {most} are used, and one frame of a film)"
            f"{_both(shared)}; give more"
        )
    return Groups(
        _some(used, each, stream(seed, "training images")),
        _some(control, each, stream(seed, "held-out images")),
        shared,
        known=len(train),
        repeated=repeated,
        films=(len(used) < len(seen)) != (len(control) < len(unseen)),
    )


def _both(shared: int) -> str:
    """What to say of held-out images that are training images as well, where there are any."""
    return f", as {shared} held-out images are training images as well" if shared else ""


def _each_class(train: ImageSet, unseen: ImageSet, most: int, seed: int) -> Tensor:
    """How many images (K,) of each class to take from both sides, at most `most` together."""
    counts = [torch.bincount(one.labels, minlength=one.classes) for one in (train, unseen)]
    both = torch.minimum(counts[0], counts[1])
    labels = torch.arange(len(both)).repeat_interleave(both)
    order = torch.randperm(len(labels), generator=stream(seed, "classes of both groups"))
    return torch.bincount(labels[order[:most]], minlength=len(both))


def _some(images: ImageSet, each: Tensor, random: torch.Generator) -> ImageSet:
    """So many images of each class, in random order."""
    order = torch.randperm(len(images), generator=random)
    labels = images.labels[order]
    chosen = torch.zeros(len(order), dtype=torch.bool)
    for label, count in enumerate(each.tolist()):
        chosen[(labels == label).nonzero().flatten()[:count]] = True
    return images.subset(order[chosen])

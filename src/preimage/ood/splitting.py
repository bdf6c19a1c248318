"""Real images to harden with: to train on, to guard by, and to choose a threshold by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from preimage.augment import augment
from preimage.config import TrainConfig
from preimage.data import ImageSet
from preimage.data.films import films
from preimage.data.overlap import check_alike, not_among
from preimage.data.portion import HeldOut, hold_out
from preimage.drawing import to_bytes
from preimage.errors import PreimageError
from preimage.ood.detector import FEWEST
from preimage.ood.shortcuts import softened
from preimage.runtime import stream

_REFERENCE_IMAGES = 9000
_AT_ONCE = 2**25
"""Numbers to change at a time."""
_SOFT = 3


@dataclass(frozen=True)
class Split:
    """What every real image is for."""

    fit: ImageSet
    """To train on, in random order."""
    validation: ImageSet
    """Held out of the training."""
    unfamiliar: ImageSet
    """What a threshold is chosen on, since it stands for images that are new: the validation
    images, under the training's random changes where a start classifier has seen them and takes
    them as they are with more confidence than others."""
    films: Tensor | None
    """(N,) int64, the same number for those of them that are frames of one film; None where the
    images are no frames."""
    reference: ImageSet
    """Some of those that it is trained on, to know features and layers by, a third of them reduced
    and enlarged again."""


def split_up(
    data: ImageSet,
    heldout: ImageSet | None,
    valid: int,
    training: TrainConfig,
    *,
    seen: bool,
) -> Split:
    """Hold some of the training images out, or use what is given for that.

    Args:
        data: training images.
        heldout: others of the same shape and classes; those that are in `data` as well are left
            out. None holds some of `data` out.
        valid: how many then, a fifth of all at most.
        training: seed and random changes.
        seen: whether a classifier that goes on from an earlier training has seen `data`, those
            that are held out now as well.

    Raises:
        PreimageError: for too few images to hold out, or such of another kind.
    """
    seed = training.seed
    if heldout is None:
        fit, validation, of_film = _held_out(data, valid, seed)
        unfamiliar = _changed(validation, training) if seen else validation
    else:
        order = torch.randperm(len(data), generator=stream(seed, "training images"))
        fit, validation = data.subset(order), _unseen(data, heldout)
        unfamiliar, of_film = validation, films(validation)
    return Split(fit, validation, unfamiliar, of_film, _reference(fit, seed))


def _held_out(data: ImageSet, valid: int, seed: int) -> HeldOut:
    found = hold_out(data, valid, seed)
    if len(found.out) < FEWEST:
        raise PreimageError(
            f"expected at least {FEWEST} images to hold out, a fifth of all at most, found "
            f"{len(found.out)} of {len(data)}; give more images, or a larger --valid"
        )
    return found


def _unseen(data: ImageSet, heldout: ImageSet) -> ImageSet:
    check_alike(data, heldout)
    unseen = not_among(data, heldout)
    if len(unseen) < FEWEST:
        raise PreimageError(
            f"expected at least {FEWEST} held-out images that are not training images as well, "
            f"found {len(unseen)} of {len(heldout)}; give others"
        )
    return unseen


def _changed(images: ImageSet, training: TrainConfig) -> ImageSet:
    """The images as they might be met in training, but for the black that flows in.

    A margin of repeated edges takes that: in a photograph a black border is far from usual.
    """
    random = stream(training.seed, "unfamiliar")
    height, width = images.spec.shape[1:]
    top, left = height // 4, width // 4
    padded = images.spec.channels * (height + 2 * top) * (width + 2 * left)
    parts = []
    for rows in torch.arange(len(images)).split(max(1, _AT_ONCE // padded)):
        wide = F.pad(images.floats(rows), (left, left, top, top), mode="replicate")
        moved = augment(wide, training.augmentation, random)
        parts.append(to_bytes(moved[..., top : top + height, left : left + width]))
    return replace(images, images=torch.cat(parts))


def _reference(images: ImageSet, seed: int) -> ImageSet:
    """Some of the images, which are in random order, and every third of them softened.

    What was enlarged is soft, known or unknown: softness alone is nothing unusual.
    """
    some = images.subset(torch.arange(min(len(images), _REFERENCE_IMAGES)))
    return softened(some, stream(seed, "reference"), _SOFT)

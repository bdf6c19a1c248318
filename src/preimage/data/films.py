"""Which images are frames of one film, told from the order that they come in."""

from __future__ import annotations

import torch
from torch import Tensor

from preimage.data.imageset import ImageSet
from preimage.data.thumbnails import thumbnails
from preimage.runtime import stream

ALIKE = 0.7
"""Of the distance between two images of a class that have nothing to do with each other (median):
frames of one film are nearer than that."""


def films(images: ImageSet) -> Tensor | None:
    """Number the films that the images are frames of.

    Data that were cut from films (traffic signs, surveillance, medical slices) mostly come in the
    order of the films, and frames of one film are nearly the same image: one to train on and its
    neighbour to test with is no test. Where the images of a class that follow each other are
    mostly much more alike than others of the class, each run of such images is taken for a film.

    Args:
        images: with labels, in the order of their source.

    Returns:
        (N,) int64, the same number for frames of one film, each class's films apart; None where
        the order tells of no films.
    """
    small = thumbnails(images.images)
    number = torch.zeros(len(images), dtype=torch.long)
    ratios, used = [], 0
    for label in images.labels.unique():
        rows = (images.labels == label).nonzero().flatten()
        ratio = _steps(small[rows])
        number[rows[1:]] = (ratio > ALIKE).cumsum(0)
        number[rows] += used
        used = int(number[rows[-1]]) + 1
        ratios.append(ratio)
    together = torch.cat(ratios) if ratios else torch.zeros(0)
    return number if len(together) and together.median() < ALIKE else None


def one_of_each_film(images: ImageSet, seed: int) -> ImageSet:
    """A random frame of each film, in the order of the source; all images where none are films."""
    of_film = films(images)
    if of_film is None:
        return images
    order = torch.randperm(len(images), generator=stream(seed, "frames"))
    frame = torch.empty(int(of_film.max()) + 1, dtype=torch.long)
    frame[of_film[order]] = order
    return images.subset(frame.sort().values)


def _steps(rows: Tensor) -> Tensor:
    """(N - 1,): from each image to the next, over the median of as many random pairs."""
    other = rows[torch.randperm(len(rows), generator=stream(0, "films", len(rows)))]
    usual = _lengths(other.diff(dim=0))
    if not len(usual):
        return usual
    return _lengths(rows.diff(dim=0)) / usual.median().clamp_min(torch.finfo(usual.dtype).tiny)


def _lengths(vectors: Tensor) -> Tensor:
    return vectors.square().mean(1).sqrt()

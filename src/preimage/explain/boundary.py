"""Where one class ends and another begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from preimage.classifier import Classifier, frozen
from preimage.explain.codes import Codes
from preimage.inversion import Inversion, predict
from preimage.runtime import channels_last
from preimage.types import Prediction

REACHED = 0.1
"""Both probabilities this near to one half count as on the boundary."""

_LINE = 17
_HALVINGS = 14
_LR = 0.03
_FLOOR = 1e-12


@dataclass(frozen=True)
class Boundaries:
    """An image for each pair of classes, between the two."""

    pairs: tuple[tuple[int, int], ...]
    images: Tensor
    """(P, C, H, W) in [0, 1]."""
    probabilities: Tensor
    """(P, 2), what the classifier gives to both classes; one half each on the boundary."""
    start: Codes
    """Inversions of the pairs' first classes, where paths begin."""
    middle: Codes
    end: Codes

    @property
    def reached(self) -> Tensor:
        """(P,) bool: whether it is on the boundary."""
        return ((self.probabilities - 0.5).abs() <= REACHED).all(1)


@dataclass(frozen=True)
class Paths:
    """Images on the way from one class to another."""

    images: Tensor
    """(P, T, C, H, W) in [0, 1]."""
    probabilities: Tensor
    """(P, T, 2), of the first and of the second class."""


def boundary_images(
    classifier: Classifier,
    inversion: Inversion,
    pairs: Sequence[tuple[int, int]],
    *,
    steps: int = 60,
    seed: int = 0,
) -> Boundaries:
    """Invert to the soft target of one half each, for every pair.

    Starts where the classifier is least decided on the straight line between the generator's
    conditions for the two classes, goes on from there in latent and condition by Adam, and at last
    bisects towards the class that has too little: so the images stay such as the generator draws.

    Args:
        classifier: of K classes.
        inversion: of that classifier.
        pairs: of class indices, at least one.
        steps: of Adam.
        seed: names the latents.
    """
    first, second = (torch.tensor(column) for column in zip(*pairs, strict=True))
    start = Codes.draw(inversion, first, seed)
    end = start.asked(Codes.draw(inversion, second, seed + 1))
    both = torch.stack([first, second], dim=1)
    middle = _undecided(classifier, start, end, both)

    def loss(rows: Tensor, answer: Prediction) -> Tensor:
        # the KL divergence from one half each, up to a constant
        own = answer.logits.log_softmax(1).gather(1, both[rows])
        return -own.mean(1)

    middle = _balanced(classifier, middle.moved(classifier, loss, steps, _LR), start, end, both)
    with torch.no_grad():
        images = middle.images().cpu()
    return Boundaries(
        tuple((int(a), int(b)) for a, b in pairs),
        images,
        _both(classifier, images, both),
        start,
        middle,
        end,
    )


def _undecided(classifier: Classifier, start: Codes, end: Codes, both: Tensor) -> Codes:
    """The point of each line where both classes have the most of what the other one leaves."""
    best = torch.full((len(both),), -1.0)
    where = torch.zeros(len(both))
    for weight in torch.linspace(0, 1, _LINE).tolist():
        with torch.no_grad():
            least = _both(classifier, start.mixed(end, weight).images(), both).amin(1)
        better = least > best
        best, where = torch.where(better, least, best), torch.where(better, weight, where)
    return start.mixed(end, where)


def _balanced(
    classifier: Classifier, middle: Codes, start: Codes, end: Codes, both: Tensor
) -> Codes:
    """Bisect towards the class that has too little, until both have as much."""

    def ahead(codes: Codes) -> Tensor:
        with torch.no_grad():
            p = _both(classifier, codes.images(), both)
        return p[:, 0] > p[:, 1]

    first = ahead(middle)
    goal = end.chosen(first, start)
    low, high = torch.zeros(len(both)), torch.ones(len(both))
    for _ in range(_HALVINGS):
        half = (low + high) / 2
        same = ahead(middle.mixed(goal, half)) == first
        low, high = torch.where(same, half, low), torch.where(same, high, half)
    return middle.mixed(goal, (low + high) / 2)


def paths(classifier: Classifier, found: Boundaries, points: int = 9) -> Paths:
    """Go from the first class through the boundary image to the second.

    Args:
        classifier: as it was for `found`.
        found: boundary images.
        points: images of a path, at least 3; an odd number has the boundary in the middle.
    """
    half = points // 2
    there = [found.start.mixed(found.middle, i / half) for i in range(half)]
    back = points - half - 1
    on = [found.middle.mixed(found.end, i / back) for i in range(back + 1)]
    both = torch.tensor(found.pairs)
    with torch.no_grad():
        steps = [code.images().cpu() for code in (*there, *on)]
    answers = [_both(classifier, images, both) for images in steps]
    return Paths(torch.stack(steps, dim=1), torch.stack(answers, dim=1))


class Distances(NamedTuple):
    """How near the boundaries are, in units of pixels (L2)."""

    nearest: Tensor
    """(N,) from each image to the nearest boundary; NaN for those that do not count."""
    table: Tensor
    """(k, k) medians: row a, column b; NaN on the diagonal and in rows without images."""


def boundary_distances(
    classifier: Classifier, images: Tensor, labels: Tensor, classes: Sequence[int]
) -> Distances:
    """How near the boundaries are, to first order.

    The distance from an image of class a to the boundary with class b is about
    ``|f_a - f_b| / ||grad (f_a - f_b)||`` with the logits f: exact for a linear classifier
    (Moosavi-Dezfooli et al. 2016, "DeepFool", equation 8).

    Args:
        classifier: of K classes.
        images: (N, C, H, W) in [0, 1]; those that it puts elsewhere than `labels` do not count.
        labels: (N,) int64.
        classes: the k class indices to compare, at least two.
    """
    gaps = torch.cat(
        [
            _distances(classifier, part, own, classes)
            for part, own in zip(images.split(64), labels.split(64), strict=True)
        ]
    )
    gaps = torch.where(labels[:, None] == torch.tensor(classes), float("nan"), gaps)
    nearest = torch.where(gaps.isnan(), float("inf"), gaps).amin(1)
    nearest = torch.where(nearest.isinf(), float("nan"), nearest)
    table = torch.full((len(classes), len(classes)), float("nan"))
    for i, a in enumerate(classes):
        own = gaps[labels == a]
        if len(own):
            table[i] = own.nanmedian(0).values
    return Distances(nearest, table)


def _distances(
    classifier: Classifier, images: Tensor, labels: Tensor, classes: Sequence[int]
) -> Tensor:
    """(B, k) to each class of `classes`; NaN for images that are not put in their class."""
    device = classifier.mean.device
    pixels = channels_last(images.to(device)).requires_grad_()
    labels = labels.to(device)
    with frozen(classifier), torch.enable_grad():
        logits = classifier(pixels).logits
        own = logits.gather(1, labels[:, None])[:, 0]
        columns = []
        for k in classes:
            gap = own - logits[:, k]
            (slope,) = torch.autograd.grad(gap.sum(), pixels, retain_graph=True)
            columns.append(gap.detach() / slope.flatten(1).norm(dim=1).clamp_min(_FLOOR))
    found = torch.stack(columns, dim=1)
    right = logits.argmax(1) == labels
    return torch.where(right[:, None], found, float("nan")).cpu()


def _both(classifier: Classifier, images: Tensor, both: Tensor) -> Tensor:
    """Probabilities (B, 2) of each row's two classes."""
    return predict(classifier, images.detach()).logits.softmax(1).gather(1, both)

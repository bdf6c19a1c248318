"""Does it do its own task? Without that, what the other parts measure is of no use."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from preimage.auditing.answers import premise
from preimage.auditing.context import Context, some, wilson
from preimage.auditing.parts import Found, part
from preimage.training import predictions

_LEAST, _MOST = 200, 10_000
_SURE = 2.575829
"""Deviations of an interval that holds in 99 of 100 cases."""
_SKILL = 0.1
"""How far from guessing (0) to certainty (1) its balanced accuracy must reach.

With the usual normalisation left out, channels swapped or classes in another order, accuracy falls
to about that of guessing. A share of what guessing leaves means the same for 2 classes as for 1000,
which a multiple of one in K does not.
"""


class Balanced(NamedTuple):
    """Mean over the classes of the share that is right, with its interval of 99 %."""

    share: float
    low: float
    high: float
    seen: int
    """Classes that there are images of."""

    def works(self, classes: int) -> str:
        """Whether that is more than guessing among so many classes, as far as the images tell.

        Where there are images of some of the classes alone, always naming one of these gets more
        right than guessing does: what works gets more than that, and what does not work no more
        than guessing.
        """
        if self.low > _bar(self.seen, _SKILL):
            return "yes"
        # of a few images even a good one may get few right
        few = self.share <= _bar(classes, _SKILL) and self.high < _bar(classes, 0.5)
        return "no" if few else "can't tell"


def _bar(classes: int, skill: float) -> float:
    """The accuracy that goes such a part of the way from guessing to certainty."""
    guessing = 1 / classes
    return guessing + skill * (1 - guessing)


@part("accuracy", "task", 0.02, needs=("test",))
def accuracy(context: Context, seconds: float) -> Found:
    """Its accuracy on real images, which a wrong normalisation or order of classes takes away."""
    test = context.data.test
    assert test is not None
    most = context.fixed("accuracy images", lambda: _images(context, seconds))
    known = some(test, most, context.command.seed)
    right = predictions(context.classifier, known) == known.labels
    found = balanced(right, known.labels)
    figures = {
        "accuracy": float(right.double().mean()),
        "balanced_accuracy": found.share,
        "balanced_low": found.low,
        "balanced_high": found.high,
        "guessing": 1 / context.classifier.classes,
        "images": len(known),
        "works": found.works(context.classifier.classes),
    }
    if figures["works"] == "no":
        answer = premise(figures, "")
        context.report.warn(f"{answer.figure} {answer.meaning}")
    return Found(figures)


def balanced(right: Tensor, labels: Tensor) -> Balanced:
    """Accuracy that counts every class alike, so that naming the commonest one is no skill.

    Args:
        right: (N,) bool, which images are put in their own class.
        labels: (N,) int64, the classes.

    Returns:
        With the interval of Wilson 1927 for as many images as would tell the mean as well if all
        classes were as common.
    """
    counts = labels.bincount().double()
    there = counts > 0
    hits = labels[right].bincount(minlength=len(counts)).double()
    share = float((hits[there] / counts[there]).mean())
    classes = int(there.sum())
    alike = classes**2 / float(counts[there].reciprocal().sum())
    return Balanced(share, *wilson(share * alike, alike, _SURE), classes)


def _images(context: Context, seconds: float) -> int:
    """As many as there is time for."""
    return max(_LEAST, min(_MOST, int(seconds / max(1e-9, context.predict_seconds))))

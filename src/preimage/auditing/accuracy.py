"""Does it do its own task? Without that, what the other parts measure is of no use."""

from __future__ import annotations

from preimage.auditing.answers import premise
from preimage.auditing.context import Context, some, wilson
from preimage.auditing.parts import Found, part
from preimage.training import accuracy_on

_LEAST, _MOST = 200, 10_000
_SURE = 2.326348
"""Deviations of a one-sided bound that holds in 99 of 100 cases."""
_SKILL = 0.1
"""How far from guessing (0) to certainty (1) its accuracy must be shown to reach.

With the usual normalisation left out, channels swapped or classes in another order, accuracy falls
to about that of guessing. A share of what guessing leaves means the same for 2 classes as for 1000
and for classes of unequal size, which a multiple of one in K does not.
"""


@part("accuracy", "task", 0.02, needs=("test",))
def accuracy(context: Context, seconds: float) -> Found:
    """Its accuracy on real images, which a wrong normalisation or order of classes takes away."""
    test = context.data.test
    assert test is not None
    most = context.fixed("accuracy images", lambda: _images(context, seconds))
    known = some(test, most, context.command.seed)
    right = round(accuracy_on(context.classifier, known) * len(known))
    low, _ = wilson(right, len(known), _SURE)
    # always naming the commonest class, which is one in K where all are as common
    guessing = float(known.labels.bincount().max()) / len(known)
    works = low > guessing + _SKILL * (1 - guessing)
    figures = {
        "accuracy": right / len(known),
        "accuracy_low": low,
        "guessing": guessing,
        "images": len(known),
        "works": "yes" if works else "no",
    }
    if not works:
        answer = premise(figures, "")
        context.report.warn(f"{answer.figure} {answer.meaning}")
    return Found(figures)


def _images(context: Context, seconds: float) -> int:
    """As many as there is time for."""
    return max(_LEAST, min(_MOST, int(seconds / max(1e-9, context.predict_seconds))))

"""What an audit consists of. A new part is a function with ``@part(...)`` in one of the modules
that :mod:`preimage.auditing.job` imports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from preimage.panels import Panel

if TYPE_CHECKING:
    from preimage.auditing.context import Context

Question = Literal["task", "accept", "ood", "leak"]
"""Three that are answered, and before them whether the classifier does its task at all."""
Need = Literal["train", "test", "evaluator", "name"]

MISSING: dict[Need, str] = {
    "train": "no images that it was trained on are at hand; name its data set with --data",
    "test": "no real images of its classes are at hand; name a data set with --data",
    "evaluator": "no independent classifier of its classes is at hand; name one with --evaluator",
    "name": "it needs a classifier that can be loaded by name, not one that is only in memory",
}
"""What a part says that is left out."""


@dataclass(frozen=True)
class Found:
    """What a part found out."""

    figures: dict[str, Any] = field(default_factory=dict)
    """For its question's section of the record."""
    panels: list[Panel] = field(default_factory=list)
    """For the page."""
    notes: list[str] = field(default_factory=list)
    """Sentences on how it was done."""


class LeftOutError(Exception):
    """A part is not for this audit; the text is one sentence that says why."""


Work = Callable[["Context", float], Found]
"""What does a part's work: the audit's context, and the seconds it may take."""


@dataclass(frozen=True)
class Part:
    """A part and its share of the time."""

    name: str
    question: Question
    share: float
    """Of the time, beside the other parts' shares."""
    needs: tuple[Need, ...]
    """What must be there; where it is not, the part is left out and its time goes to others."""
    job: bool
    """Whether it is a job of its own, which sees to devices itself."""
    work: Work


_QUESTIONS = ("task", "accept", "ood", "leak")
_PARTS: dict[str, Part] = {}


def part(
    name: str, question: Question, share: float, needs: tuple[Need, ...] = (), *, job: bool = False
) -> Callable[[Work], Work]:
    """Register a part; those of a question run, and stand on the page, in this order."""

    def add(work: Work) -> Work:
        _PARTS[name] = Part(name, question, share, needs, job, work)
        return work

    return add


def parts() -> tuple[Part, ...]:
    """All parts, in order: question by question."""
    return tuple(sorted(_PARTS.values(), key=lambda one: _QUESTIONS.index(one.question)))

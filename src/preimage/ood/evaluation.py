"""Measure a detector and baselines on sets of known and of unknown images."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from preimage.classifier import Classifier
from preimage.data import ImageSet
from preimage.drawing import chunks
from preimage.inversion import predict
from preimage.ood.baselines import Scorer
from preimage.ood.detector import Detector
from preimage.ood.figures import separation
from preimage.ood.scores import Evidence, judged, score_names, unanswered
from preimage.ood.shortcuts import Shortcut, find_shortcuts, same_path
from preimage.ood.threshold import threshold_at
from preimage.types import ImageSpec

OURS = "preimage"
_LOWER = 0.98
"""A second share of known images to let through: published figures allow as many in garbage."""


class Method(NamedTuple):
    """One way to score images."""

    method: str
    """preimage, or a baseline's name."""
    score: str
    """Which of the method's scores; a baseline's has its own name."""


@dataclass(frozen=True)
class Scored:
    """What a method makes of a set of images."""

    scores: Tensor
    """(N,), larger for more unknown."""
    seconds: float
    """Spent on them, the classifier's own work included."""
    argmax_share: float | None = None
    """Of them, those that the classifier itself puts in garbage, whose logit is the largest; None
    where it has no such class."""


class Judge(Protocol):
    """One classifier and all methods that read it."""

    @property
    def thresholds(self) -> Mapping[Method, float | None]:
        """Where each method's images count as unknown; None where it has no threshold."""

    @property
    def thresholds_98(self) -> Mapping[Method, float | None]:
        """Likewise, with 98 % of known images let through; None where that is not known either."""

    def __call__(self, images: ImageSet) -> dict[Method, Scored]:
        """What each method makes of `images`."""


class DetectorJudge:
    """Every score of a detector."""

    def __init__(self, detector: Detector):
        self._detector = detector
        self.thresholds: dict[Method, float | None] = {
            Method(OURS, name): detector.thresholds.get(name) for name in score_names()
        }
        lower = detector.thresholds_at(_LOWER) if detector.can_set_tpr else {}
        self.thresholds_98: dict[Method, float | None] = {
            method: lower.get(method.score) for method in self.thresholds
        }

    def __call__(self, images: ImageSet) -> dict[Method, Scored]:
        """See :class:`Judge`."""
        start = time.perf_counter()
        parts = [self._detector.evidence(images.floats(rows)) for rows in chunks(len(images))]
        evidence = Evidence(*(torch.cat(column) for column in zip(*parts, strict=True)))
        seconds = time.perf_counter() - start
        logits = evidence.logits
        garbage = float((logits.argmax(1) == logits.shape[1] - 1).double().mean())
        return {
            method: Scored(judged(method.score, evidence), seconds, garbage)
            for method in self.thresholds
        }


class BaselineJudge:
    """Baselines on a plain classifier, which answers once for all of them."""

    def __init__(self, classifier: Classifier, scorers: Mapping[str, Scorer]):
        self._classifier, self._scorers = classifier, scorers
        self.thresholds: dict[Method, float | None] = {Method(name, name): None for name in scorers}
        self.thresholds_98 = self.thresholds

    def __call__(self, images: ImageSet) -> dict[Method, Scored]:
        """See :class:`Judge`."""
        scores: dict[Method, list[Tensor]] = {method: [] for method in self.thresholds}
        seconds = dict.fromkeys(self.thresholds, 0.0)
        for rows in chunks(len(images)):
            floats = images.floats(rows)
            start = time.perf_counter()
            answer = predict(self._classifier, floats)
            shared = time.perf_counter() - start
            for method in self.thresholds:
                start = time.perf_counter()
                values = self._scorers[method.method](floats, answer)
                scores[method].append(unanswered(values.detach().cpu().double()))
                seconds[method] += shared + time.perf_counter() - start
        return {
            method: Scored(torch.cat(parts), seconds[method]) for method, parts in scores.items()
        }


@dataclass(frozen=True)
class Unknown:
    """A set of images that are none of the classes."""

    name: str
    images: ImageSet
    """In the classifier's shape."""
    native: ImageSpec
    """The shape that they were stored in."""
    real: bool
    """Whether a camera or a hand made them, not code."""
    shared: int = 0
    """How many more there were that are known images as well, and are left out."""


def unreadable_note(name: str, reasons: Sequence[str]) -> str:
    """A sentence on the images of a set that cannot be read.

    Args:
        name: of the set.
        reasons: one for each, at least one.
    """
    if len(reasons) == 1:
        return f"{name}: one image cannot be read and is left out: {reasons[0]}."
    return (
        f"{name}: {len(reasons)} images cannot be read and are left out, of which the first: "
        f"{reasons[0]}."
    )


def shared_note(name: str, count: int) -> str:
    """A sentence on the images of a set that are known images as well, at least one."""
    many = "one image is" if count == 1 else f"{count} images are"
    return f"{name}: {many} among the known ones as well, to the byte, and left out."


class Evaluation:
    """Figures of several methods on one set of known images.

    Args:
        known: test images of the classes.
        judges: what to compare.
        tpr: share of known test images to let through by methods that have no threshold of their
            own, which favours these.
    """

    def __init__(self, known: ImageSet, judges: Sequence[Judge], tpr: float):
        self.known, self.judges, self.tpr = known, judges, tpr
        self._known: dict[str, dict[Method, Scored]] = {}

    def measure(self, unknown: Unknown) -> tuple[list[dict[str, Any]], dict[Method, Tensor]]:
        """A record for each method, and its scores of the unknown images.

        Each side is brought through the enlarging of the other first, so that its blur gives
        nothing away.
        """
        here, there = self._of_known(unknown.native), self._judge(self._as_enlarged(unknown))
        records = [
            {
                "ood": unknown.name,
                "real": unknown.real,
                "unreadable": len(unknown.images.unreadable),
                "shared": unknown.shared,
                **method._asdict(),
                **separation(here[method].scores, scored.scores)._asdict(),
                **self._shares(method, here[method].scores, scored.scores),
                "argmax_share": scored.argmax_share,
                "id_argmax_share": here[method].argmax_share,
                "seconds": round(scored.seconds, 2),
            }
            for method, scored in there.items()
        ]
        return records, {method: scored.scores for method, scored in there.items()}

    def shortcuts(self, unknown: Unknown) -> list[Shortcut]:
        """Trivial differences that are left between the two."""
        return find_shortcuts(same_path(self.known, unknown.native), self._as_enlarged(unknown))

    def known_scores(self, native: ImageSpec) -> dict[Method, Tensor]:
        """Each method's scores of the known images, as blurred as unknown ones from `native`."""
        return {method: scored.scores for method, scored in self._of_known(native).items()}

    def _as_enlarged(self, unknown: Unknown) -> ImageSet:
        """The unknown images, as blurred as the known ones where these were enlarged."""
        return same_path(unknown.images, self.known.stored or self.known.spec)

    def _judge(self, images: ImageSet) -> dict[Method, Scored]:
        return {method: scored for judge in self.judges for method, scored in judge(images).items()}

    def _of_known(self, native: ImageSpec) -> dict[Method, Scored]:
        known = same_path(self.known, native)
        path = "as it is" if known is self.known else f"{native.height}x{native.width}"
        if path not in self._known:
            self._known[path] = self._judge(known)
        return self._known[path]

    def _shares(self, method: Method, here: Tensor, there: Tensor) -> dict[str, float | None]:
        """Of known and of unknown images those beyond the threshold, and beyond that at 98 %."""
        judge = next(judge for judge in self.judges if method in judge.thresholds)
        own, lower = judge.thresholds[method], judge.thresholds_98[method]
        if own is None:
            own, lower = (float(threshold_at(here, tpr)) for tpr in (self.tpr, _LOWER))
        return {
            "garbage_share": _beyond(there, own),
            "id_garbage_share": _beyond(here, own),
            "garbage_share_98": _beyond(there, lower),
            "id_garbage_share_98": _beyond(here, lower),
        }


def _beyond(scores: Tensor, threshold: float | None) -> float | None:
    return None if threshold is None else float((scores > threshold).double().mean())

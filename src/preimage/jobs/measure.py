"""What an inversion is measured against: real images, and an independent evaluator."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from preimage import zoo
from preimage.classifier import Classifier
from preimage.commands import Measure
from preimage.config import ModelConfig
from preimage.data import ImageSet, load
from preimage.data.order import moved_classes, of_classes
from preimage.errors import PreimageError
from preimage.jobs.report import Reporter
from preimage.sources import load_classifier
from preimage.training import accuracy_on
from preimage.zoo.architectures import family

_EVALUATOR = "-evaluator"
_TRIED, _WORTHY = 1000, 0.8
"""Real images that an evaluator is tried on, and its share of the classifier's accuracy there."""


@dataclass(frozen=True)
class Judges:
    """None where there is none."""

    dataset: str | None
    real: ImageSet | None
    evaluator: Classifier | None


def find_judges(
    model: ModelConfig, classifier: Classifier, measure: Measure, report: Reporter
) -> Judges:
    """Find what the settings name, or a bundled classifier's own.

    Raises:
        PreimageError: when what the settings name is not there or does not fit the classifier. A
            bundled classifier's own data set that is not at hand is a warning only.
    """
    own = own_data(model.model)
    dataset = measure.data or own
    return Judges(
        dataset,
        _real(dataset, classifier, report, asked=measure.data is not None)
        if measure.real
        else None,
        find_evaluator(model, classifier, measure.evaluator),
    )


def doubt(judges: Judges, classifier: Classifier, report: Reporter) -> None:
    """Say so where the evaluator itself knows too little of the classes."""
    real, evaluator = judges.real, judges.evaluator
    if real is None or evaluator is None:
        return
    some = real.subset(torch.linspace(0, len(real) - 1, min(_TRIED, len(real))).long())
    own, right = accuracy_on(classifier, some), accuracy_on(evaluator, some)
    if right < _WORTHY * own:
        report.warn(
            f"the evaluator gets {right:.0%} of real images right and the classifier {own:.0%}, so "
            "what the evaluator says of inversions tells little; train a better one"
        )


def own_data(model: str) -> str | None:
    """The data set that a bundled classifier was trained on; None for any other."""
    return model.removesuffix(_EVALUATOR) if model in zoo.bundled() else None


def _real(
    dataset: str | None, classifier: Classifier, report: Reporter, *, asked: bool
) -> ImageSet | None:
    if dataset is None:
        report.warn("no data set is given (--data), so figures that need real images are left out")
        return None
    try:
        real = load(dataset, "test", spec=classifier.spec)
    except PreimageError as error:
        if asked:
            raise
        report.warn(f"figures that need real images are left out: {error}")
        return None
    return of_classes(real, classifier.class_names, source=dataset, what="data")


def _related(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and family(one) == family(other)


def find_evaluator(
    config: ModelConfig, classifier: Classifier, asked: str | None
) -> Classifier | None:
    """The evaluator that was asked for, or a bundled classifier's own; None where there is none.

    Raises:
        PreimageError: where it does not fit the classifier, or is no independent judge.
    """
    model, own = config.model, own_data(config.model)
    if asked is None and own is None:
        return None
    # a bundled evaluator is judged by the other bundled classifier of its data set
    usual = own if model.endswith(_EVALUATOR) else f"{own}{_EVALUATOR}"
    evaluator = load_classifier(asked or str(usual))
    if (evaluator.classes, evaluator.spec) != (classifier.classes, classifier.spec):
        raise PreimageError(
            f"expected an evaluator of {classifier.classes} classes and images "
            f"{classifier.spec}, found {evaluator.classes} classes and {evaluator.spec}; give "
            "one trained on the classifier's own data"
        )
    moved = moved_classes(classifier.class_names, evaluator.class_names)
    if moved:
        raise PreimageError(
            f"expected an evaluator whose classes come in the classifier's order, found {moved[0]} "
            f"in '{evaluator.name}'; train one on data with the classifier's order"
        )
    if _related(evaluator.arch, classifier.arch):
        raise PreimageError(
            f"expected an evaluator of another architecture than the classifier's, found "
            f"'{evaluator.arch}' beside '{classifier.arch}'; an independent "
            "judge must not share its blind spots"
        )
    return evaluator

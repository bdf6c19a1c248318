"""How good an inversion is: accuracy, diversity and faithfulness, always reported together.

Any one of these figures is easy to reach alone. A collapsed generator has full inversion accuracy,
noise is diverse, and a copy of one real image has full precision.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from preimage.classifier import Classifier, frozen
from preimage.config import Precision
from preimage.diversity import (
    first_of_each_class,
    precision_coverage,
    vendi,
    within_class_vendi,
)
from preimage.drawing import (
    MOST_BYTES,
    Ask,
    Draw,
    Progress,
    balanced_labels,
    check_logits,
    check_real,
    chunks,
    draw_chunks,
    home,
    to_bytes,
)
from preimage.errors import PreimageError
from preimage.runtime import channels_last
from preimage.student import StudentConfig, check_student, student_accuracy

if TYPE_CHECKING:
    from preimage.data import ImageSet
    from preimage.types import ImageSpec

__all__ = ["Metrics", "evaluate", "precision_coverage", "vendi", "within_class_vendi"]

VENDI_COUNT = 200
"""Samples of a class that its Vendi score is taken from, where there are as many."""
PAIR_COUNT = 10_000
"""Real and generated samples, of each so many at most, that precision and coverage compare."""
NEIGHBOUR = 5
"""Nearest neighbour that sets the radius for precision and coverage, as in Naeem et al. 2020."""


@dataclass(frozen=True)
class Metrics:
    """Figures of one inversion; None where the evaluator or enough real images were wanting."""

    inversion_accuracy: float | None = None
    """Share of samples that the target puts in the requested class."""
    evaluator_accuracy: float | None = None
    """Share of samples that the independent evaluator puts in the requested class."""
    confidence: float | None = None
    """Mean softmax probability that the target gives to the requested class, in [0, 1]."""
    vendi_pixel: float | None = None
    """Within-class Vendi score of the pixels, rounded to bytes; 1 is collapse."""
    vendi_pixel_real: float | None = None
    """The same of as many real images of each class."""
    vendi_feature: float | None = None
    """Within-class Vendi score of the evaluator's features."""
    vendi_feature_real: float | None = None
    """The same of as many real images of each class."""
    precision: float | None = None
    """Share of samples that are among the real images in the evaluator's features."""
    coverage: float | None = None
    """Share of real images with a sample nearby in the evaluator's features."""
    student_accuracy: float | None = None
    """Accuracy on real images of a fresh network that has learned from inversions only."""


@dataclass(frozen=True)
class _Vectors:
    values: Tensor
    """(N, D) on the CPU."""
    labels: Tensor
    """(N,) int64."""

    def first(self, counts: Tensor) -> Tensor:
        return self.values[first_of_each_class(self.labels, counts)]


@dataclass(frozen=True)
class _Plan:
    """What is drawn and how much of each class is kept; all tensors (K,) int64 but `labels`."""

    labels: Tensor
    """(N,), what is asked for."""
    vendi: Tensor
    pair: Tensor
    """Zero where there is nothing to compare with."""
    spec: ImageSpec | None
    """Shape to expect, where it is known before the first sample."""

    @property
    def features(self) -> Tensor:
        return torch.maximum(self.vendi, self.pair)


@dataclass(frozen=True)
class _Drawn:
    accuracy: float
    judged: float | None
    confidence: float
    pixels: _Vectors
    features: _Vectors | None
    device: torch.device


def evaluate(
    draw: Draw,
    classifier: Ask,
    *,
    classes: int,
    evaluator: Ask | None = None,
    real: ImageSet | None = None,
    seed: int = 0,
    samples: int = 10_000,
    student: StudentConfig | None = StudentConfig(),  # noqa: B008 (frozen)
    precision: Precision = "auto",
    on_progress: Progress | None = None,
) -> Metrics:
    """Measure fresh samples.

    Wherever real and generated samples are compared, both have the same number of each class: the
    smaller of the two, at most 200 for the Vendi scores (fewer where the images would take more
    than 1 GiB) and 10,000 over all classes for precision and coverage. The first of each class are
    taken, in order.

    Args:
        draw: gives samples for (B,) int64 labels and a seed; called in chunks, and its
            ``prediction`` taken for the target's answer. Dropout is to be on.
        classifier: the target, asked by the student's training. Frozen meanwhile.
        classes: number of classes K of target, evaluator and `real`.
        evaluator: a classifier trained independently of the target, for the same image shape.
            None leaves its accuracy, feature Vendi, precision and coverage None.
        real: real *test* images, of the generated ones' shape; None leaves out what needs them.
            So do fewer than 6 of them for precision and coverage, and fewer than 2 of every class
            for the Vendi scores.
        seed: all the samples and the student follow from it.
        samples: how many to draw, spread evenly over the classes.
        student: None leaves student accuracy None, which takes most of the time.
        precision: of the student's training and the target's answers to it.
        on_progress: told of "samples", "real images", "student images" and "student steps".

    Raises:
        PreimageError: for samples that are not finite or do not fit `classes` and `real`, or a
            student of the target's own architecture; before the first sample where possible.
    """
    report = on_progress or (lambda *_: None)
    if student is not None:
        check_student(student, classifier)
    with ExitStack() as stack:
        for asked in (classifier, evaluator):
            if isinstance(asked, Classifier):
                stack.enter_context(frozen(asked))
        plan = _plan(samples, classes, real, getattr(classifier, "spec", None))
        drawn = _draw(draw, evaluator, plan, seed, report)
        real_pixels, real_features = _real_vectors(evaluator, real, plan, drawn.device, report)
        near, coverage = _compare(drawn.features, real_features, plan.pair)
        learned = None
        if student is not None and real is not None:
            learned = student_accuracy(
                draw,
                classifier,
                real,
                classes=classes,
                config=student,
                seed=seed,
                precision=precision,
                on_progress=report,
            )
    return Metrics(
        inversion_accuracy=drawn.accuracy,
        evaluator_accuracy=drawn.judged,
        confidence=drawn.confidence,
        vendi_pixel=_vendi(drawn.pixels, plan.vendi),
        vendi_pixel_real=_vendi(real_pixels, plan.vendi),
        vendi_feature=_vendi(drawn.features, plan.vendi),
        vendi_feature_real=_vendi(real_features, plan.vendi),
        precision=near,
        coverage=coverage,
        student_accuracy=learned,
    )


def _plan(samples: int, classes: int, real: ImageSet | None, spec: ImageSpec | None) -> _Plan:
    if samples < 1 or classes < 2:
        raise PreimageError(
            f"expected at least 1 sample and 2 classes to evaluate, found {samples} and {classes}; "
            "draw more samples, or choose a classifier of more classes"
        )
    labels = balanced_labels(samples, classes)
    count = torch.bincount(labels, minlength=classes)
    pair = torch.zeros_like(count)
    if real is not None:
        check_real(real, classes)
        spec = real.spec
        count = torch.minimum(count, torch.bincount(real.labels, minlength=classes))
        pair = count.clamp_max(max(1, PAIR_COUNT // classes))
    most = VENDI_COUNT
    if spec is not None:  # half of the memory is for the real images
        room = MOST_BYTES // (2 * classes * spec.channels * spec.height * spec.width)
        most = min(most, max(2, room))
    return _Plan(labels, count.clamp_max(most), pair, spec)


def _draw(
    draw: Draw,
    evaluator: Ask | None,
    plan: _Plan,
    seed: int,
    report: Progress,
) -> _Drawn:
    """Draw all samples and keep no more of them than the comparisons need."""
    classes, total = len(plan.vendi), len(plan.labels)
    keep_pixels = first_of_each_class(plan.labels, plan.vendi)
    keep_features = first_of_each_class(plan.labels, plan.features)
    answers, judged, pixels, features = [], [], [], []
    confidence, device = 0.0, torch.device("cpu")
    chunked = draw_chunks(draw, plan.labels, classes, plan.spec, seed, "evaluate")
    for rows, sample in chunked:
        device = sample.images.device
        logits = sample.prediction.logits.detach().float().cpu()
        answers.append(logits.argmax(1))
        asked_for = plan.labels[rows, None]
        confidence += float(logits.double().softmax(1).gather(1, asked_for).sum())
        pixels.append(to_bytes(sample.images[keep_pixels[rows].to(device)]).flatten(1))
        if evaluator is not None:
            answer, vectors = _judge(evaluator, sample.images, classes)
            judged.append(answer)
            features.append(vectors[keep_features[rows]])
        report("samples", rows.stop, total)
    return _Drawn(
        accuracy=_accuracy(answers, plan.labels),
        judged=_accuracy(judged, plan.labels) if judged else None,
        confidence=confidence / total,
        pixels=_Vectors(torch.cat(pixels), plan.labels[keep_pixels]),
        features=_Vectors(torch.cat(features), plan.labels[keep_features]) if features else None,
        device=device,
    )


def _accuracy(answers: list[Tensor], labels: Tensor) -> float:
    return float((torch.cat(answers) == labels).double().mean())


@torch.no_grad()
def _judge(evaluator: Ask, images: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The evaluator's classes (B,) and features (B, D) on the CPU."""
    prediction = evaluator(channels_last(images.to(home(evaluator, images.device))))
    check_logits(prediction.logits, len(images), classes, "the evaluator")
    return prediction.logits.argmax(1).cpu(), prediction.features.detach().float().cpu()


def _real_vectors(
    evaluator: Ask | None,
    real: ImageSet | None,
    plan: _Plan,
    device: torch.device,
    report: Progress,
) -> tuple[_Vectors | None, _Vectors | None]:
    """Pixels and evaluator's features of the real images that are compared with."""
    if real is None:
        return None, None
    kept = first_of_each_class(real.labels, plan.vendi)
    pixels = _Vectors(real.images[kept].flatten(1), real.labels[kept])
    if evaluator is None:
        return pixels, None
    index = first_of_each_class(real.labels, plan.features).nonzero().flatten()
    features = []
    for rows in chunks(len(index)):
        images = real.floats(index[rows]).to(device)
        features.append(_judge(evaluator, images, len(plan.vendi))[1])
        report("real images", rows.stop, len(index))
    return pixels, _Vectors(torch.cat(features), real.labels[index]) if features else None


def _compare(
    drawn: _Vectors | None, real: _Vectors | None, counts: Tensor
) -> tuple[float | None, float | None]:
    if drawn is None or real is None or int(counts.sum()) <= NEIGHBOUR:
        return None, None
    return precision_coverage(real.first(counts), drawn.first(counts), NEIGHBOUR)


def _vendi(vectors: _Vectors | None, counts: Tensor) -> float | None:
    if vectors is None or int(counts.max()) < 2:
        return None
    return within_class_vendi(vectors.values, vectors.labels, counts)

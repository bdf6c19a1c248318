"""What an evaluation of detectors found, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from preimage.classifier import Classifier
from preimage.inversion import predict
from preimage.ood.evaluation import OURS, Method, Unknown, shared_note, unreadable_note
from preimage.ood.shortcuts import Shortcut
from preimage.pages import STRIP, Histogram, Strip, Table, method_table, page, strip
from preimage.panels import histograms, strips, table

_MOST_STRIPS = 12
_KEY = (
    "known",
    "unknown",
    "images by score; further right is more out-of-distribution. The dashed line is the "
    "threshold, chosen from known images alone.",
)
_FAIRNESS = (
    "All images were brought to the classifier's shape by one function, the same for every "
    "method. Where unknown images had to be enlarged, known ones were reduced to their size "
    "(of several the median) and enlarged as well.",
    "Thresholds come from known images alone: a detector's from images held out of its "
    "training, a baseline's from the known test images, which favours it.",
)


SHARES = {
    "garbage_share": "beyond the threshold",
    "garbage_share_98": "beyond one that lets 98 % through",
    "argmax_share": "that the classifier itself puts in garbage",
}
"""What shares of the images are called, by their field of a record."""


class View(NamedTuple):
    """What the page shows of one set of unknown images."""

    scores: Histogram
    mistakes: Strip
    shortcuts: Sequence[Shortcut]


def mistakes(
    unknown: Unknown,
    scores: Tensor,
    threshold: float | None,
    classifier: Classifier,
    classes: int,
) -> Strip:
    """The unknown images that look most known, and what they are taken for.

    Where there is a threshold, only those that it takes for known: there may be none.

    Args:
        unknown: the set, of N images.
        scores: (N,), larger for what is more unknown.
        threshold: where images begin to count as unknown; None where there is no such place.
        classifier: what takes them for one of its classes.
        classes: how many of its logits, from the first, are known classes.
    """
    taken = len(scores) if threshold is None else int((scores <= threshold).sum())
    if not taken:
        return Strip(unknown.name, f"none of {len(scores)} taken for known", [])
    lowest = scores.sort()
    shown = min(taken, STRIP)
    images = unknown.images.floats(lowest.indices[:shown])
    labels = predict(classifier, images).logits[:, :classes].argmax(1).tolist()
    captions = [
        f"taken for {classifier.class_names[label]}, score {score:.3g}"
        for label, score in zip(labels, lowest.values[:shown].tolist(), strict=True)
    ]
    text = "" if threshold is None else f"{taken} of {len(scores)} taken for known"
    return strip(unknown.name, text, images, captions)


def evaluation_page(model: str, result: dict[str, Any], main: Method, views: Sequence[View]) -> str:
    """Figures, orders, distributions and mistakes.

    Args:
        model: name of what was measured.
        result: `records`, what they share, which baselines are `left_out` and why, and by the name
            of a set why each of its `unreadable` files is, and how many images it `shared` with the
            known ones.
        main: the method that pictures and facts are of.
        views: one for each unknown set; two sets may have one name.
    """
    shown = views[:_MOST_STRIPS]
    surest = strips(
        "The most confident mistakes",
        "Of each set, the images that look most known; where there is a threshold, only those that "
        "it takes for known.",
        [view.mistakes for view in shown],
    )
    plots = [view.scores for view in views]
    return page(
        f"Does '{model}' know what it doesn't know?",
        f"Known are the test images of {result['id']}; everything else should get larger scores.",
        facts=_facts(result, main),
        panels=[table(_orders(result["records"])), histograms("Scores", _KEY, plots), surest],
        notes=_notes(views, result, len(views) - len(shown)),
    )


def _orders(records: Sequence[Mapping[str, Any]]) -> Table:
    values: dict[str, dict[str, float]] = {}
    for record in records:
        name = record["method"] if record["method"] != OURS else f"{OURS} {record['score']}"
        values.setdefault(record["ood"], {})[name] = record["auroc"]
    return method_table(
        "AUROC",
        "Share of pairs of a known and an unknown image in the right order; 1 is perfect, 0.5 is "
        "chance.",
        values,
    )


def _facts(result: Mapping[str, Any], main: Method) -> dict[str, str]:
    own = [r for r in result["records"] if (r["method"], r["score"]) == main]
    real = [r for r in own if r["real"]] or own

    def mean(field: str) -> float:
        return sum(record[field] for record in real) / len(real)

    kind = "real" if real[0]["real"] else "synthetic"
    facts = {
        f"Mean AUROC, {kind} sets": f"{mean('auroc'):.3f}",
        f"Mean FPR95, {kind} sets": f"{mean('fpr95'):.1%}",
    }
    for field, name in SHARES.items():
        if real[0][field] is not None:
            facts[f"Unknown images {name}"] = f"{mean(field):.1%}"
            facts[f"Known images {name}"] = f"{mean(f'id_{field}'):.1%}"
    for field, name in (("id_accuracy", "Accuracy"), ("id_accuracy_plain", "plain classifier's")):
        if result[field] is not None:
            facts[name] = f"{result[field]:.2%}"
    return facts


def _notes(views: Sequence[View], result: Mapping[str, Any], unseen: int) -> list[str]:
    notes = [
        f"{view.scores.name}: {shortcut.statistic} alone tells it from the known images with an "
        f"AUROC of {shortcut.auroc:.3f}, so a good figure there says little about content."
        for view in views
        for shortcut in view.shortcuts
    ]
    notes += [f"{name} is left out: {reason}" for name, reason in result["left_out"].items()]
    notes += [unreadable_note(name, reasons) for name, reasons in result["unreadable"].items()]
    notes += [shared_note(name, count) for name, count in result["shared"].items()]
    if unseen:
        notes.append(f"Mistakes of {unseen} more sets are not shown.")
    return [*_FAIRNESS, *notes]

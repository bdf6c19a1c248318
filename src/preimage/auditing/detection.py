"""Does it know what it doesn't know? Its own confidence, baselines, and what hardening gains."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from preimage.auditing.context import Context, some
from preimage.auditing.figures import OWN_SCORE
from preimage.auditing.parts import Found, LeftOutError, part
from preimage.classifier import all_frozen
from preimage.commands import OodTrain, Output, Start
from preimage.config import BASELINES, HardenConfig
from preimage.data import ImageSet
from preimage.inversion import predict
from preimage.jobs.ood_sets import KnownImages, unknown_sets
from preimage.jobs.ood_train import few_epochs, ood_train_job
from preimage.ood.baselines import UNFITTED, Fitted, fit_baselines
from preimage.ood.detector import DETECTOR_FILE, Detector
from preimage.ood.evaluation import (
    OURS,
    BaselineJudge,
    DetectorJudge,
    Evaluation,
    Judge,
    Method,
    Unknown,
    shared_note,
    unreadable_note,
)
from preimage.ood.heads import Mode, can_extend
from preimage.ood.synthetic import synthetic_names
from preimage.ood.threshold import threshold_at
from preimage.pages import STRIP, Histogram, Strip, histogram, method_table, strip
from preimage.panels import Panel, histograms, strips, table
from preimage.training import accuracy_on

OWN = Method(OWN_SCORE, OWN_SCORE)
"""The classifier's own confidence: the largest softmax probability (Hendrycks & Gimpel 2017)."""

_COMBINED = Method(OURS, "combined")
_TPR = 0.99
_LEAST, _MOST = 50, 10_000
_LEAST_FIT, _MOST_FIT, _FIT_SHARE = 500, 5000, 0.2
"""Training images to fit baselines to, and the share of the time that their answers may take."""
_PASSES = 8.0
"""Answers of the classifier that scoring an image by every baseline costs, roughly."""
_PATIENCE = 3.0
"""How many times its share of the time this part may take before something is left out of it."""
_MOST_STRIPS = 6
_STEP_PASSES = 4.0
_BATCH = 256
_ROUNDS = 2
"""Of inversion, that hardening takes for a classifier that is trained already."""


_BESIDE = (
    "The garbage class stands beside the classifier, in a small network on its features, since "
    "there is no last linear layer to extend, as in an exported program. The classifier itself "
    "learned nothing."
)


@part("hardening", "ood", 0.16, needs=("train", "name"), job=True)
def hardening(context: Context, seconds: float) -> Found:
    """Give the classifier a garbage class, where the time allows; the next part measures it."""
    train = context.data.train
    assert train is not None
    wanted = _hardening_seconds(context, train)
    fits = context.fixed("hardening", lambda: wanted <= seconds)
    if not fits:
        raise LeftOutError(
            f"hardening would take about {_minutes(wanted)} and there are {_minutes(seconds)} for "
            "it; give a larger --budget"
        )
    command = context.command
    head: Mode = "extend" if can_extend(context.classifier) else "beside"
    result, _ = ood_train_job(
        OodTrain(
            dataset=str(context.data.name),
            seed=command.seed,
            start=Start(**vars(command.model)),
            harden=HardenConfig(head=head),
            runtime=command.runtime,
            output=Output(out=str(context.inner("hardened"))),
        ),
        context.report,
    )
    note = (
        f"Hardened for {result['epochs']} epochs with {result['garbage']} images of garbage, "
        "noise and inversions; no real image of anything else was used."
    )
    return Found(notes=[note] if head == "extend" else [note, _BESIDE])


def _hardening_seconds(context: Context, train: ImageSet) -> float:
    """About how long it takes: training steps on images and garbage, and the rounds between."""
    config = HardenConfig()
    epochs = few_epochs(len(train), _BATCH)
    seen = epochs * max(len(train), _BATCH) * (1 + config.share)
    training = seen * _STEP_PASSES * context.predict_seconds
    # every image that is inverted or in the pool is looked at again in each round
    chosen = _ROUNDS * _STEP_PASSES * config.garbage * context.predict_seconds
    return training + chosen + _ROUNDS * config.inversion_steps * context.inversion_seconds


@part("detection", "ood", 0.14, needs=("test",))
def detection(context: Context, seconds: float) -> Found:
    """AUROC and FPR95 of the classifier's own confidence, of baselines and of the hardened one."""
    test = context.data.test
    assert test is not None
    fit = context.fixed("fit images", lambda: _fit_images(context, seconds))
    known = some(test, _room(context, seconds, fit), context.command.seed)
    # what still shows its class is no mistake to take for it
    by_code = synthetic_names(shapeless=True)
    unknown = unknown_sets(
        context.command.ood,
        KnownImages(known, context.data.test_digests if context.command.ood else frozenset()),
        context.classifier.spec,
        synthetic=by_code,
        most=len(known),
        seed=context.command.seed,
    )
    judges, notes = _judges(context, fit)
    hardened = _hardened(context)
    judges += [DetectorJudge(hardened)] if hardened else []
    evaluation = Evaluation(known, judges, _TPR)
    records, plots, mistakes = [], [], []
    sets = len(context.command.ood) + len(by_code)
    with all_frozen(context.device, hardened.classifier if hardened else None):
        for i, one in enumerate(unknown):
            found, scores = evaluation.measure(one)
            records += found
            plots.append(_plot(one, evaluation.known_scores(one.native)[OWN], scores[OWN]))
            mistakes.append((float(scores[OWN].mean()), _mistaken(context, one, scores[OWN])))
            if one.images.unreadable:
                notes.append(unreadable_note(one.name, one.images.unreadable))
                context.report.warn(notes[-1])
            if one.shared:
                notes.append(shared_note(one.name, one.shared))
                context.report.warn(notes[-1])
            context.report.progress("sets", i + 1, sets, one.name)
        figures = _figures(context, records, len(known))
        if hardened:
            figures |= _gain(context, hardened, _of(_counted(records), _COMBINED))
    panels = [_table(records), _histograms(plots), _mistakes(mistakes)]
    return Found(figures, panels, notes)


def _scoring(context: Context, images: int, passes: float) -> float:
    """Seconds for so many images of every set."""
    sets = 10 + len(context.command.ood)
    return sets * images * passes * context.predict_seconds


def _fit_images(context: Context, seconds: float) -> int:
    """Images to fit baselines to; 0 where even a few scored by all of them take too long."""
    if _scoring(context, _LEAST, _PASSES) > _PATIENCE * seconds:
        return 0
    room = int(_FIT_SHARE * seconds / max(1e-9, context.predict_seconds))
    return max(_LEAST_FIT, min(_MOST_FIT, room))


def _room(context: Context, seconds: float, fit: int) -> int:
    """Images a set that there is time for."""
    passes = _PASSES if fit else 1.0

    def choose() -> int:
        least = _scoring(context, _LEAST, passes)
        if least > _PATIENCE * seconds:
            raise LeftOutError(
                f"scoring {_LEAST} images of every set would take about {_minutes(least)} and "
                f"there are {_minutes(seconds)} for it; give a larger --budget"
            )
        return max(_LEAST, min(_MOST, int(seconds / max(1e-9, _scoring(context, 1, passes)))))

    return int(context.fixed("ood images", choose))


def _judges(context: Context, fit: int) -> tuple[list[Judge], list[str]]:
    """Who scores, and sentences on who does not."""
    # without training images nothing can be fitted; the test images must not stand in for them
    train = context.data.train
    names = (BASELINES if train is not None else UNFITTED) if fit else (OWN.method,)
    stand_in = train if train is not None else context.data.test
    assert stand_in is not None
    seed = context.command.seed
    fitted = Fitted(context.classifier, some(stand_in, fit or _LEAST, seed), seed)
    scorers, left_out = fit_baselines(names, fitted)
    slow = "Left out: the baselines, which take longer than there is time; give a larger --budget."
    notes = [] if fit else [slow]
    notes += [
        f"Left out: {', '.join(name for name in left_out if left_out[name] == reason)}, {reason}"
        for reason in dict.fromkeys(left_out.values())
    ]
    return [BaselineJudge(context.classifier, scorers)], notes


def _hardened(context: Context) -> Detector | None:
    """What the part before has made."""
    there = (context.inner("hardened") / DETECTOR_FILE).is_file()
    return Detector.load(context.inner("hardened")) if there else None


def _plot(one: Unknown, here: Tensor, there: Tensor) -> Histogram:
    return histogram(one.name, here, there, float(threshold_at(here, _TPR)))


def _label(record: dict[str, Any]) -> str:
    if record["method"] == OURS:
        return "hardened"
    return "own confidence" if record["method"] == OWN.method else str(record["method"])


def _shown(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a detector the combined score alone."""
    return [r for r in records if r["method"] != OURS or r["score"] == _COMBINED.score]


def _table(records: list[dict[str, Any]]) -> Panel:
    values: dict[str, dict[str, float]] = {}
    for record in _shown(records):
        values.setdefault(record["ood"], {})[_label(record)] = record["auroc"]
    text = "1 tells every unknown image from every known one, 0.5 is guessing."
    return table(method_table("AUROC", text, values))


def _histograms(plots: list[Histogram]) -> Panel:
    return histograms(
        "How confident it is",
        (
            "known",
            "unknown",
            "images by its own confidence, less confident to the right. Left of the dashed line "
            f"are {_TPR:.0%} of the known ones.",
        ),
        plots,
    )


def _mistakes(found: list[tuple[float, Strip]]) -> Panel:
    """The unknown images that it is surest of, from the sets that fool it most."""
    worst = sorted(found, key=lambda pair: pair[0])[:_MOST_STRIPS]
    return strips(
        "Most confident mistakes",
        "Images that are none of the classes, and what it takes them for.",
        [shown for _, shown in worst],
    )


def _mistaken(context: Context, one: Unknown, scores: Tensor) -> Strip:
    images = one.images.floats(scores.argsort()[: STRIP // 2])
    probability, label = predict(context.classifier, images).logits.softmax(1).max(1)
    names = context.classifier.class_names
    captions = [
        f"taken for {names[k]}, {p:.1%} sure"
        for k, p in zip(label.tolist(), probability.tolist(), strict=True)
    ]
    return strip(one.name, "", images, captions)


def _figures(context: Context, records: list[dict[str, Any]], count: int) -> dict[str, Any]:
    counted = _counted(records)
    own = _of(counted, OWN)
    baselines = {r["method"] for r in counted if r["method"] not in (OURS, OWN.method)}
    means = {name: _mean(_of(counted, Method(name, name)), "auroc") for name in baselines}
    best = max(means, key=lambda name: means[name]) if means else None
    return {
        "known": context.data.name,
        "sets": [record["ood"] for record in own],
        "images_each": count,
        "score": OWN.score,
        "auroc": _mean(own, "auroc"),
        "auroc_lowest": min(record["auroc"] for record in own),
        "fpr95": _mean(own, "fpr95"),
        "best_baseline": best,
        "best_baseline_auroc": means[best] if best else None,
        "best_baseline_fpr95": _mean(_of(counted, Method(best, best)), "fpr95") if best else None,
    }


def _counted(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Real sets alone, where there are any."""
    return [record for record in records if record["real"]] or records


def _gain(context: Context, hardened: Detector, records: list[dict[str, Any]]) -> dict[str, Any]:
    test = context.data.test
    assert test is not None
    return {
        "hardened_auroc": _mean(records, "auroc"),
        "hardened_fpr95": _mean(records, "fpr95"),
        "hardened_accuracy": accuracy_on(hardened.classifier, test),
        "plain_accuracy": accuracy_on(context.classifier, test),
    }


def _of(records: list[dict[str, Any]], method: Method) -> list[dict[str, Any]]:
    return [r for r in records if (r["method"], r["score"]) == method]


def _mean(records: list[dict[str, Any]], name: str) -> float:
    return sum(record[name] for record in records) / len(records)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

"""`preimage ood eval`: a detector and baselines on sets of unknown images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preimage.classifier import Classifier
from preimage.commands import OodEval
from preimage.data import ImageSet, load
from preimage.environment import hardware_name
from preimage.errors import PreimageError
from preimage.inversion import predict
from preimage.jobs.measure import own_data
from preimage.jobs.report import Reporter, Silent
from preimage.ood.baselines import Fitted, fit_baseline
from preimage.ood.detector import DETECTOR_FILE, Detector, FromModel
from preimage.ood.evaluation import (
    OURS,
    BaselineJudge,
    DetectorJudge,
    Evaluation,
    Judge,
    Method,
    Unknown,
)
from preimage.ood.shortcuts import Shortcut
from preimage.ood.synthetic import make_synthetic, synthetic_names
from preimage.pages import STRIP, histogram, method_table, page, strip
from preimage.panels import histograms, strips, table
from preimage.run import RunFolder, folder_name
from preimage.runtime import stream
from preimage.sources import load_classifier
from preimage.training import accuracy_on
from preimage.types import ImageSpec

PAGE_FILE = "ood.html"
_TPR = 0.99
_MOST_STRIPS = 12


@dataclass(frozen=True)
class _Subjects:
    """What is measured."""

    detector: Detector | None
    plain: Classifier | None

    @property
    def any(self) -> Classifier:
        """A classifier that says how images must be."""
        found = self.detector.classifier if self.detector else self.plain
        assert found is not None
        return found


def ood_eval_job(command: OodEval, report: Reporter | None = None) -> tuple[dict[str, Any], Path]:
    """Measure, and leave records and a page in a run folder.

    Returns:
        The records with what they are about, and the run folder.

    Raises:
        PreimageError: for a model, data, settings or a folder that do not fit.
    """
    report = report or Silent()
    command = replace(command, id=command.id or _own_data(command.model))
    _check(command)
    subjects = _subjects(command, report)
    known = _known(command, subjects)
    unknown = unknown_sets(
        command.ood,
        known,
        subjects.any.spec,
        synthetic=command.synthetic,
        most=command.most,
        seed=command.seed,
    )
    path = Path(command.output.out or f"runs/ood-eval-{_name(command.model)}-{_name(_id(command))}")
    settings = {
        name: getattr(command, name)
        for name in ("model", "id", "ood", "synthetic", "plain", "baselines", "most", "seed")
    }
    with RunFolder.create(path, "ood eval", settings, overwrite=command.output.overwrite) as folder:
        if not folder.finished:
            folder.rewind(0)
            result, text = _measure(command, subjects, known, unknown, report)
            folder.write(PAGE_FILE, text.encode())
            folder.finish(result)
        return folder.metrics(), path


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """What a person wants to read of :func:`ood_eval_job`'s result."""
    records = result["records"]
    shown = {
        name: result[name]
        for name in ("model", "id_accuracy", "id_accuracy_plain")
        if result[name] is not None
    }
    for method in dict.fromkeys((r["method"], r["score"]) for r in records):
        own = [r for r in records if (r["method"], r["score"]) == method]
        name = " ".join(dict.fromkeys(method))
        shown[f"AUROC, {name}"] = ", ".join(f"{r['ood']} {r['auroc']:.3f}" for r in own)
    return shown


def _id(command: OodEval) -> str:
    """The known data, which are settled by now."""
    assert command.id is not None
    return command.id


def _check(command: OodEval) -> None:
    if command.most < 2:
        raise PreimageError(f"expected --most of at least 2, found {command.most}; raise it")
    same = [name for name in command.ood if _identity(name) == _identity(_id(command))]
    if same:
        raise PreimageError(
            f"expected --ood to name other data than --id, found '{same[0]}' as both; leave it out"
        )
    if not command.ood and not command.synthetic:
        raise PreimageError(
            "expected something to tell known images from, found neither --ood nor --synthetic; "
            "give a data set or a folder with --ood"
        )


def _own_data(model: str) -> str:
    """What a run or a bundled classifier was trained on."""
    bundled = own_data(model)
    if bundled is not None:
        return bundled
    path = Path(model)
    if (path / DETECTOR_FILE).is_file():
        return str(RunFolder.open(path, "ood train").settings["config"]["dataset"])
    raise PreimageError(
        f"expected the data set that '{model}' was trained for, found none; give it with --id"
    )


def _identity(source: str) -> str:
    """The same for two ways to write one source."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source.lower().replace("-", "_")


def _name(source: str) -> str:
    return folder_name(Path(source).stem)


def _subjects(command: OodEval, report: Reporter) -> _Subjects:
    path = Path(command.model)
    if (path / DETECTOR_FILE).is_file() or path.name == DETECTOR_FILE:
        detector = Detector.load(path)
        return _Subjects(detector, _plain(command, detector, report))
    report.warn(
        f"'{command.model}' has no garbage class, so baselines alone are measured; make a detector "
        "with `preimage ood train`"
    )
    if not command.baselines:
        raise PreimageError(
            "expected something to measure, found a plain classifier and no --baselines; name some"
        )
    return _Subjects(None, load_classifier(command.model))


def _plain(command: OodEval, detector: Detector, report: Reporter) -> Classifier | None:
    """The classifier for the baselines; None, and a warning, where there is none."""
    if not command.baselines:
        return None
    if command.plain is None and isinstance(detector.recipe, FromModel):
        return load_classifier(detector.recipe.model)
    if command.plain is None:
        report.warn(
            "baselines are left out: give a plain classifier of the same architecture and training "
            "with --plain"
        )
        return None
    plain = load_classifier(command.plain)
    if (plain.spec, plain.classes) != (detector.spec, len(detector.class_names)):
        raise PreimageError(
            f"expected a plain classifier of images {detector.spec} and "
            f"{len(detector.class_names)} classes, found {plain.spec} and {plain.classes} in "
            f"'{command.plain}'; give the detector's own twin"
        )
    return plain


def _known(command: OodEval, subjects: _Subjects) -> ImageSet:
    known = load(_id(command), "test", spec=subjects.any.spec)
    classes = len(subjects.detector.class_names) if subjects.detector else subjects.any.classes
    if known.classes != classes:
        raise PreimageError(
            f"expected known images of {classes} classes, as the classifier has, found "
            f"{known.classes} in '{command.id}'; give the data that it was trained for with --id"
        )
    return _some(known, command.most, command.seed)


def unknown_sets(
    sources: Sequence[str],
    known: ImageSet,
    spec: ImageSpec,
    *,
    synthetic: bool,
    most: int,
    seed: int,
) -> list[Unknown]:
    """Sets of images that are none of the classes, in the classifier's shape.

    Args:
        sources: data sets, folders of images or parquet files.
        known: in-distribution images, which synthetic sets take after.
        spec: the classifier's shape.
        synthetic: add the sets made by code.
        most: images of each set at most.
        seed: of the synthetic sets and of every choice of images.

    Raises:
        PreimageError: for a source that cannot be read.
    """
    found = []
    for source in sources:
        images = _some(_native(source, spec), most, seed)
        found.append(Unknown(images.name, images.convert(spec), images.spec, real=True))
    for name in synthetic_names() if synthetic else ():
        images = make_synthetic(name, known, seed)
        found.append(Unknown(images.name, images, spec, real=False))
    return found


def _native(source: str, spec: ImageSpec) -> ImageSet:
    """In the size that the images were stored in; where they have several, in the classifier's."""
    try:
        return load(source, "test", labelled=False)
    except PreimageError:
        return load(source, "test", spec=spec, labelled=False)


def _some(images: ImageSet, most: int, seed: int) -> ImageSet:
    random = stream(seed, "ood eval", images.name)
    return images.subset(torch.randperm(len(images), generator=random)[:most])


def _measure(
    command: OodEval,
    subjects: _Subjects,
    known: ImageSet,
    unknown: list[Unknown],
    report: Reporter,
) -> tuple[dict[str, Any], str]:
    judges, left_out = _judges(command, subjects, report)
    evaluation = Evaluation(known, judges, _TPR)
    shared = {
        "id": command.id,
        "seed": command.seed,
        "id_accuracy": _accuracy(subjects.detector, known),
        "id_accuracy_plain": accuracy_on(subjects.plain, known) if subjects.plain else None,
        "hardware": hardware_name(),
    }
    records: list[dict[str, Any]] = []
    plots, mistakes, shortcuts = [], [], {}
    main = _main_method(judges)
    threshold = _threshold(judges, main)
    for i, one in enumerate(unknown):
        found, scores = evaluation.measure(one)
        records += [{**shared, **record} for record in found]
        shortcuts[one.name] = evaluation.shortcuts(one)
        plots.append(histogram(one.name, evaluation.known_scores()[main], scores[main], threshold))
        mistakes.append(_mistakes(subjects, one, scores[main], threshold))
        report.progress("sets", i + 1, len(unknown), _note(found, main))
    result = {
        **shared,
        "model": command.model,
        "left_out": left_out,
        "shortcuts": {
            name: [shortcut._asdict() for shortcut in given]
            for name, given in shortcuts.items()
            if given
        },
        "records": records,
    }
    return result, _page(command, result, records, main, plots, mistakes, shortcuts)


def _judges(
    command: OodEval, subjects: _Subjects, report: Reporter
) -> tuple[list[Judge], dict[str, str]]:
    judges: list[Judge] = []
    left_out: dict[str, str] = {}
    if subjects.detector is not None:
        judges.append(DetectorJudge(subjects.detector))
    if subjects.plain is not None:
        train = load(_id(command), "train", spec=subjects.plain.spec)
        fitted = Fitted(subjects.plain, train, command.seed)
        scorers = {}
        for name in command.baselines:
            try:
                scorers[name] = fit_baseline(name, fitted)
            except PreimageError as error:
                left_out[name] = str(error)
                report.warn(f"{name} is left out: {error}")
        judges.append(BaselineJudge(subjects.plain, scorers))
    return judges, left_out


def _main_method(judges: list[Judge]) -> Method:
    """The one that pictures are made of: the detector's combined score, or the first there is."""
    methods = [method for judge in judges for method in judge.thresholds]
    if not methods:
        raise PreimageError(
            "expected something to measure, found no method left; the notes above say why"
        )
    combined = Method(OURS, "combined")
    return combined if combined in methods else methods[0]


def _threshold(judges: list[Judge], method: Method) -> float | None:
    return next(judge.thresholds[method] for judge in judges if method in judge.thresholds)


def _accuracy(detector: Detector | None, known: ImageSet) -> float | None:
    """On the known images; one that is sent to garbage counts as wrong."""
    return accuracy_on(detector.classifier, known) if detector else None


def _note(records: list[dict[str, Any]], main: Method) -> str:
    record = next(r for r in records if (r["method"], r["score"]) == main)
    return f"{record['ood']}: AUROC {record['auroc']:.4f}"


def _mistakes(
    subjects: _Subjects, one: Unknown, scores: Tensor, threshold: float | None
) -> tuple[str, str, Tensor, list[str]]:
    """The unknown images that look most known to the detector."""
    rows = scores.argsort()[:STRIP]
    images = one.images.floats(rows)
    logits = predict(subjects.any, images).logits
    classes = len(subjects.detector.class_names) if subjects.detector else logits.shape[1]
    labels = logits[:, :classes].argmax(1).tolist()
    names = subjects.any.class_names
    accepted = (
        ""
        if threshold is None
        else (f"{float((scores <= threshold).double().mean()):.1%} are taken for known")
    )
    captions = [
        f"taken for {names[label]}, score {score:.3g}"
        for label, score in zip(labels, scores[rows].tolist(), strict=True)
    ]
    return one.name, accepted, images, captions


def _page(
    command: OodEval,
    result: dict[str, Any],
    records: list[dict[str, Any]],
    main: Method,
    plots: list[Any],
    mistakes: list[tuple[str, str, Tensor, list[str]]],
    shortcuts: dict[str, list[Shortcut]],
) -> str:
    ours = [r for r in records if (r["method"], r["score"]) == main]
    real = [r for r in ours if r["real"]] or ours
    values: dict[str, dict[str, float]] = {}
    for record in records:
        name = record["method"] if record["method"] != OURS else f"{OURS} {record['score']}"
        values.setdefault(record["ood"], {})[name] = record["auroc"]
    shown = mistakes[:_MOST_STRIPS]
    order = method_table(
        "AUROC",
        "Share of pairs of a known and an unknown image in the right order; 1 is perfect, 0.5 is "
        "chance.",
        values,
    )
    key = (
        "known",
        "unknown",
        "images by score; further right is more out-of-distribution. The dashed line is the "
        "threshold, chosen from known images alone.",
    )
    surest = strips(
        "The most confident mistakes",
        "Of each set, the images that look most known.",
        [strip(*parts) for parts in shown],
    )
    return page(
        f"Does '{Path(command.model).name}' know what it doesn't know?",
        f"Known are the test images of {command.id}; everything else should get larger scores.",
        facts=_facts(result, real),
        panels=[table(order), histograms("Scores", key, plots), surest],
        notes=_notes(shortcuts, result["left_out"], len(mistakes) - len(shown)),
    )


def _facts(result: dict[str, Any], real: list[dict[str, Any]]) -> dict[str, str]:
    def mean(field: str) -> float:
        return sum(record[field] for record in real) / len(real)

    kind = "real" if real[0]["real"] else "synthetic"
    facts = {
        f"Mean AUROC, {kind} sets": f"{mean('auroc'):.3f}",
        f"Mean FPR95, {kind} sets": f"{mean('fpr95'):.1%}",
        "Unknown images beyond the threshold": f"{mean('garbage_share'):.1%}",
        "Known images beyond it": f"{mean('id_garbage_share'):.1%}",
    }
    for field, name in (("id_accuracy", "Accuracy"), ("id_accuracy_plain", "plain classifier's")):
        if result[field] is not None:
            facts[name] = f"{result[field]:.2%}"
    return facts


def _notes(
    shortcuts: dict[str, list[Shortcut]], left_out: dict[str, str], unseen: int
) -> list[str]:
    notes = [
        f"{name}: {shortcut.statistic} alone tells it from the known images with an AUROC of "
        f"{shortcut.auroc:.3f}, so a good figure there says little about content."
        for name, found in shortcuts.items()
        for shortcut in found
    ]
    notes += [f"{name} is left out: {reason}" for name, reason in left_out.items()]
    if unseen:
        notes.append(f"Mistakes of {unseen} more sets are not shown.")
    return [
        "All images were brought to the classifier's shape by one function, the same for every "
        "method. Where unknown images had to be enlarged, known ones were reduced to their size "
        "and enlarged as well.",
        "Thresholds come from known images alone: a detector's from images held out of its "
        "training, a baseline's from the known test images, which favours it.",
        *notes,
    ]

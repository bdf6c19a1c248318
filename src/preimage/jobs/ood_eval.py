"""`preimage ood eval`: a detector and baselines on sets of unknown images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from preimage.classifier import Classifier, all_frozen
from preimage.commands import OodEval
from preimage.data import ImageSet, load
from preimage.data.known import same_source
from preimage.data.order import in_order
from preimage.data.sources import WHOLE
from preimage.digest import bytes_digest, classifier_digest, images_digests
from preimage.environment import hardware_name
from preimage.errors import PreimageError
from preimage.files import text_bytes
from preimage.jobs.float32 import scoring_device
from preimage.jobs.measure import own_data
from preimage.jobs.ood_sets import (
    KnownImages,
    check_unknown,
    known_set,
    unknown_sets,
)
from preimage.jobs.report import Reporter, Silent
from preimage.limits import check_tpr
from preimage.ood.baselines import UNFITTED, Fitted, fit_baselines
from preimage.ood.detector import Detector, is_detector
from preimage.ood.eval_page import SHARES, View, evaluation_page, mistakes
from preimage.ood.evaluation import (
    OURS,
    BaselineJudge,
    DetectorJudge,
    Evaluation,
    Judge,
    Method,
    shared_note,
)
from preimage.ood.recipe import FromModel
from preimage.ood.synthetic import synthetic_names
from preimage.ood.threshold import TPR
from preimage.pages import histogram
from preimage.run import RunFolder, folder_name
from preimage.settings import CODE, IMAGES, WEIGHTS
from preimage.source_code import code_digests
from preimage.sources import check_name, load_classifier
from preimage.training import accuracy_on

PAGE_FILE = "ood.html"
_COMBINED = Method(OURS, "combined")
_NO_SPLITS = (
    "it is fitted to training images, and the data have none apart from the test images; give data "
    "with splits"
)


@dataclass(frozen=True)
class _Subjects:
    """What is measured."""

    detector: Detector | None
    plain: Classifier | None

    @property
    def classifiers(self) -> tuple[Classifier | None, Classifier | None]:
        """That with garbage and that without."""
        return self.detector.classifier if self.detector else None, self.plain

    @property
    def any(self) -> Classifier:
        """A classifier that says how images must be."""
        hardened, plain = self.classifiers
        found = plain if hardened is None else hardened
        assert found is not None
        return found

    @property
    def digest(self) -> list[str | None]:
        """What tells them from others of their names."""
        return [
            bytes_digest(self.detector.to_bytes()) if self.detector else None,
            classifier_digest(self.plain),
        ]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the known classes; garbage is none."""
        return self.detector.class_names if self.detector else self.any.class_names


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
    device = scoring_device(command.runtime)
    subjects = _subjects(command, report)
    spec, some = subjects.any.spec, {"most": command.most, "seed": command.seed}
    known = known_set(_id(command), spec, subjects.class_names, **some)
    unknown = check_unknown(command.ood, known.digests, spec)
    hardened, plain = subjects.classifiers
    digest, tpr = subjects.digest, _set_tpr(command, subjects.detector)
    path = Path(command.output.out or f"runs/ood-eval-{_name(command.model)}-{_name(_id(command))}")
    names = ("model", "id", "ood", "synthetic", "plain", "baselines", "tpr", "most", "seed")
    settings = {
        **{name: getattr(command, name) for name in names},
        WEIGHTS: digest,
        IMAGES: images_digests(known=known.images) | unknown,
        CODE: code_digests(classifier=plain, detector=hardened),
    }
    with RunFolder.create(path, "ood eval", settings, overwrite=command.output.overwrite) as folder:
        if not folder.finished:
            folder.rewind(0)
            with all_frozen(device, *subjects.classifiers):
                result, text = _measure(command, subjects, known, tpr, report)
            folder.write(PAGE_FILE, text_bytes(text))
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
    if result["shortcuts"]:
        shown["shortcuts, so a good figure says little"] = ", ".join(
            f"{name} {shortcut['statistic']} {shortcut['auroc']:.3f}"
            for name, shortcuts in result["shortcuts"].items()
            for shortcut in shortcuts
        )
    if result.get("unreadable"):
        shown["images that cannot be read"] = ", ".join(
            f"{name} {len(reasons)}" for name, reasons in result["unreadable"].items()
        )
    if result.get("shared"):
        shown["images that are known ones as well"] = ", ".join(
            f"{name} {count}" for name, count in result["shared"].items()
        )
    ours = [r for r in records if (r["method"], r["score"]) == _COMBINED]
    for field, name in SHARES.items():
        # a finished run may be from before a share was measured
        if ours and ours[0].get(field) is not None:
            shown[f"images {name}"] = ", ".join(
                f"{r['ood']} {r[field]:.1%} (known {r[f'id_{field}']:.1%})" for r in ours
            )
    return shown


def _id(command: OodEval) -> str:
    """The known data, which are settled by now."""
    assert command.id is not None
    return command.id


def _check(command: OodEval) -> None:
    if command.most < 2:
        raise PreimageError(f"expected --most of at least 2, found {command.most}; raise it")
    check_tpr(command.tpr)
    same = [name for name in command.ood if same_source(name, _id(command))]
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
    run = _run_of(path) if is_detector(path) else None
    if run is not None:
        return str(run.settings["config"]["dataset"])
    check_name(model)
    raise PreimageError(
        f"expected the data set that '{model}' was trained for, found none; give it with --id"
    )


def _name(source: str) -> str:
    return folder_name(Path(source).stem)


def _subjects(command: OodEval, report: Reporter) -> _Subjects:
    path = Path(command.model)
    if is_detector(path):
        detector = Detector.load(path)
        return _Subjects(detector, _plain(command, detector, report))
    if command.plain is not None:
        raise PreimageError(
            f"expected no --plain beside '{command.model}', which is no detector but a plain "
            "classifier itself, found one; leave it out"
        )
    report.warn(
        f"'{command.model}' has no garbage class, so baselines alone are measured; make a detector "
        "with `preimage ood train`"
    )
    if not command.baselines:
        raise PreimageError(
            "expected something to measure, found a plain classifier and no --baselines; name some"
        )
    return _Subjects(None, load_classifier(command.model))


def _set_tpr(command: OodEval, detector: Detector | None) -> float:
    """The share of known images that thresholds let through, the detector's being set to it.

    Older detector files do not tell theirs; the run folder that they lie in does.
    """
    if command.tpr is not None:
        if detector is not None:
            detector.set_tpr(command.tpr)
        return command.tpr
    if detector is None:
        return TPR
    run = _run_of(Path(command.model))
    return detector.tpr or (float(run.settings["config"]["tpr"]) if run else TPR)


def _run_of(path: Path) -> RunFolder | None:
    """The run that a detector's folder is, or that its file lies in."""
    try:
        return RunFolder.open(path if path.is_dir() else path.parent, "ood train")
    except PreimageError:  # a detector file may lie anywhere
        return None


def _plain(command: OodEval, detector: Detector, report: Reporter) -> Classifier | None:
    """The classifier without garbage; None where there is none, and a warning if one was needed."""
    if command.plain is None and isinstance(detector.recipe, FromModel):
        try:
            plain = load_classifier(detector.recipe.model)
            _check_twin(plain, detector, detector.recipe.model.model)
            return plain
        except PreimageError as error:  # a detector does not need its file, and may have been moved
            report.warn(
                "the classifier that was hardened is not measured, nor are baselines; name it with "
                f"--plain: {error}"
            )
            return None
    if command.plain is None:
        if command.baselines:
            report.warn(
                "baselines are left out: give a plain classifier of the same architecture and "
                "training with --plain"
            )
        return None
    plain = load_classifier(command.plain)
    _check_twin(plain, detector, command.plain)
    return plain


def _check_twin(plain: Classifier, detector: Detector, name: str) -> None:
    if (plain.spec, plain.classes) != (detector.spec, len(detector.class_names)):
        raise PreimageError(
            f"expected a plain classifier of images {detector.spec} and "
            f"{len(detector.class_names)} classes, found {plain.spec} and {plain.classes} in "
            f"'{name}'; give the detector's own twin"
        )


def _measure(
    command: OodEval,
    subjects: _Subjects,
    known: KnownImages,
    tpr: float,
    report: Reporter,
) -> tuple[dict[str, Any], str]:
    judges, left_out = _judges(command, subjects, report)
    evaluation = Evaluation(known.images, judges, tpr)
    shared = {
        "id": command.id,
        "seed": command.seed,
        "tpr": tpr,
        "id_accuracy": _accuracy(subjects.detector, known.images),
        "id_accuracy_plain": accuracy_on(subjects.plain, known.images) if subjects.plain else None,
        "hardware": hardware_name(),
    }
    records: list[dict[str, Any]] = []
    views: list[View] = []
    main = _main_method(judges)
    threshold = _threshold(judges, main)
    by_code = synthetic_names() if command.synthetic else ()
    sets = len(command.ood) + len(by_code)
    some: dict[str, Any] = {"most": command.most, "seed": command.seed}
    unknown = unknown_sets(command.ood, known, known.images.spec, synthetic=by_code, **some)
    unreadable: dict[str, list[str]] = {}
    shared_images: dict[str, int] = {}
    for i, one in enumerate(unknown):
        if one.images.unreadable:
            unreadable[one.name] = list(one.images.unreadable)
            for reason in one.images.unreadable:
                report.warn(f"left out: {reason}")
        if one.shared:
            shared_images[one.name] = one.shared
            report.warn(shared_note(one.name, one.shared))
        found, scores = evaluation.measure(one)
        records += [{**shared, **record} for record in found]
        plot = histogram(
            one.name, evaluation.known_scores(one.native)[main], scores[main], threshold
        )
        surest = mistakes(one, scores[main], threshold, subjects.any, len(subjects.class_names))
        views.append(View(plot, surest, evaluation.shortcuts(one)))
        report.progress("sets", i + 1, sets, _note(found, main))
    result = {
        **shared,
        "model": command.model,
        "left_out": left_out,
        "unreadable": unreadable,
        "shared": shared_images,
        "shortcuts": {
            view.scores.name: [shortcut._asdict() for shortcut in view.shortcuts]
            for view in views
            if view.shortcuts
        },
        "records": records,
    }
    return result, evaluation_page(Path(command.model).name, result, main, views)


def _judges(
    command: OodEval, subjects: _Subjects, report: Reporter
) -> tuple[list[Judge], dict[str, str]]:
    judges: list[Judge] = []
    left_out: dict[str, str] = {}
    if subjects.detector is not None:
        judges.append(DetectorJudge(subjects.detector))
    if subjects.plain is not None and command.baselines:
        train = load(_id(command), "train", spec=subjects.plain.spec)
        train = in_order(train, subjects.class_names, "the classifier")
        fitted = Fitted(subjects.plain, train, command.seed)
        names = [n for n in command.baselines if train.split != WHOLE or n in UNFITTED]
        scorers, left_out = fit_baselines(names, fitted)
        left_out |= {name: _NO_SPLITS for name in command.baselines if name not in names}
        for name, reason in left_out.items():
            report.warn(f"{name} is left out: {reason}")
        judges.append(BaselineJudge(subjects.plain, scorers))
    return judges, left_out


def _main_method(judges: list[Judge]) -> Method:
    """The one that pictures are made of: the detector's combined score, or the first there is."""
    methods = [method for judge in judges for method in judge.thresholds]
    if not methods:
        raise PreimageError(
            "expected something to measure, found no method left; the notes above say why"
        )
    return _COMBINED if _COMBINED in methods else methods[0]


def _threshold(judges: list[Judge], method: Method) -> float | None:
    return next(judge.thresholds[method] for judge in judges if method in judge.thresholds)


def _accuracy(detector: Detector | None, known: ImageSet) -> float | None:
    """On the known images; one that is sent to garbage counts as wrong."""
    return accuracy_on(detector.classifier, known) if detector else None


def _note(records: list[dict[str, Any]], main: Method) -> str:
    record = next(r for r in records if (r["method"], r["score"]) == main)
    return f"{record['ood']}: AUROC {record['auroc']:.4f}"

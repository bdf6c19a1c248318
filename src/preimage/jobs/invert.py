"""`preimage invert`: an inversion in a run folder, measured, with a gallery page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from preimage.classifier import Classifier, all_frozen
from preimage.commands import Invert
from preimage.config import InvertConfig
from preimage.diagnostics import diagnose
from preimage.digest import classifier_digest, images_digests
from preimage.environment import hardware_name
from preimage.errors import DivergedError
from preimage.files import text_bytes
from preimage.gallery import MOST_CLASSES, GalleryClass, gallery_page
from preimage.imported import GENERATOR, SCHEME
from preimage.inversion import Inversion
from preimage.jobs.measure import Judges, doubt, find_judges
from preimage.jobs.report import Reporter, Silent
from preimage.limits import check_invert, check_measure
from preimage.loop import Progress, invert
from preimage.losses import imported_terms
from preimage.metrics import Metrics, evaluate
from preimage.plugins import import_attribute, is_plugin
from preimage.processes import called, is_follower, leading
from preimage.run import RunFolder, folder_name
from preimage.runtime import make_fabric, precision_name
from preimage.settings import CODE, EVALUATOR, IMAGES, PRECISION, WEIGHTS
from preimage.source_code import code_digests
from preimage.sources import load_classifier
from preimage.student import StudentConfig

GENERATOR_FILE = "generator.safetensors"
GALLERY_FILE = "gallery.html"
_LOG_EVERY = 10
_GALLERY_IMAGES = 24


def invert_job(
    command: Invert,
    report: Reporter | None = None,
    *,
    classifier: Classifier | None = None,
    judges: Judges | None = None,
) -> tuple[dict[str, Any], Path]:
    """Invert, measure, and leave everything in a run folder.

    Args:
        command: what to do.
        report: hears of progress.
        classifier: in place of the one that the command names.
        judges: in place of those that the command names.

    Returns:
        The record, as in results/inversion.json with the run's own extras, and the run folder.

    Raises:
        PreimageError: for a model, data, settings or a folder that do not fit.
        DivergedError: when the loss becomes NaN; the folder keeps the last good generator.
        SystemExit: on a process that only helps the first one, when its share is done.
    """
    report = report or Silent()
    check_invert(command.config)
    check_measure(command.measure.samples, command.measure.student_steps)
    classifier = classifier or load_classifier(command.model)
    if is_follower(command.runtime):
        _follow(classifier, command)
        raise SystemExit(0)
    with leading(command.runtime) as begin:
        judges = judges or find_judges(command.model, classifier, command.measure, report)
        return _lead(command, report, classifier, judges, begin)


def _follow(classifier: Classifier, command: Invert) -> None:
    """Train with the first process, which tells of what goes wrong there."""
    if called(command.runtime):
        with suppress(DivergedError):
            invert(classifier, command.config, runtime=command.runtime)


def _lead(
    command: Invert,
    report: Reporter,
    classifier: Classifier,
    judges: Judges,
    begin: Callable[[], object],
) -> tuple[dict[str, Any], Path]:
    path = Path(command.output.out or _default_folder(command, classifier))
    settings = {
        "model": asdict(command.model),
        WEIGHTS: classifier_digest(classifier),
        "config": asdict(command.config),
        "measure": asdict(command.measure),
        PRECISION: precision_name(command.runtime),
        EVALUATOR: classifier_digest(judges.evaluator),
        IMAGES: images_digests(test=judges.real),
        CODE: code_digests(
            _plugins(command.config), classifier=classifier, evaluator=judges.evaluator
        ),
    }
    with RunFolder.create(path, "invert", settings, overwrite=command.output.overwrite) as folder:
        if not folder.finished:
            with all_frozen(make_fabric(command.runtime).device, classifier, judges.evaluator):
                doubt(judges, classifier, report)
            begin()
            inversion, seconds = _train(folder, command, classifier, report)
            folder.write(GENERATOR_FILE, inversion.to_bytes())
            device = make_fabric(command.runtime).device
            with _together(device, inversion, classifier, judges.evaluator):
                metrics = _measure(command, inversion, classifier, judges, report)
                page = gallery(inversion, classifier.name, metrics)
            record = _record(command, judges, metrics, inversion, seconds)
            folder.write(GALLERY_FILE, text_bytes(page))
            folder.finish(record)
        return folder.metrics(), path


def _default_folder(command: Invert, classifier: Classifier) -> str:
    name = folder_name(classifier.name)
    config = command.config
    conditioning = folder_name(config.conditioning)
    return f"runs/invert-{name}-{config.preset}-{conditioning}-{config.seed}"


def _plugins(config: InvertConfig) -> dict[str, object]:
    """The user's own parts of an inversion, by name."""
    classes = {config.conditioning: SCHEME, config.generator.generator: GENERATOR}
    own = {n: import_attribute(n, what) for n, what in classes.items() if n and is_plugin(n)}
    return {**imported_terms(config.terms), **own}


def _train(
    folder: RunFolder, command: Invert, classifier: Classifier, report: Reporter
) -> tuple[Inversion, float]:
    """Invert, going on from the folder's state; seconds count the earlier parts as well."""
    start = folder.resume_clock()
    try:
        inversion = invert(
            classifier,
            command.config,
            runtime=command.runtime,
            checkpoint=folder,
            on_step=_logger(folder, report, start),
        )
    except DivergedError:
        _rescue(folder, classifier, command.config)
        raise
    return inversion, time.perf_counter() - start


def _logger(folder: RunFolder, report: Reporter, start: float) -> Callable[[Progress], None]:
    note = ""

    def on_step(progress: Progress) -> None:
        nonlocal note
        check = progress.check
        if check is not None:
            note = f"accuracy {check.accuracy:.1%}, Vendi {check.diversity:.2f}"
        if check is not None or progress.step % _LOG_EVERY == 0:
            folder.log(
                step=progress.step,
                loss=progress.loss,
                seconds=time.perf_counter() - start,
                check=None if check is None else asdict(check),
            )
        report.progress("steps", progress.step, progress.steps, note)

    return on_step


def _rescue(folder: RunFolder, classifier: Classifier, config: InvertConfig) -> None:
    """Write the generator of the last good state, so that it can be sampled."""
    state = folder.load_state()
    if state is None:
        return
    inversion = Inversion(classifier.spec, classifier.class_names, config)
    inversion.load_state_dict(state["inversion"])
    folder.write(GENERATOR_FILE, inversion.to_bytes())


@contextmanager
def _together(
    device: torch.device, inversion: Inversion, *judges: Classifier | None
) -> Iterator[None]:
    """All of them on the device that the inversion was trained on, and back at the end.

    The classifier may be a caller's own, and an audit goes on to use both judges.
    """
    before = next(inversion.generator.parameters()).device
    with all_frozen(device, *judges):
        inversion.to(device)
        try:
            yield
        finally:
            inversion.to(before)


def _measure(
    command: Invert,
    inversion: Inversion,
    classifier: Classifier,
    judges: Judges,
    report: Reporter,
) -> Metrics:
    how = command.measure
    return evaluate(
        inversion.sample,
        classifier,
        classes=inversion.classes,
        evaluator=judges.evaluator,
        real=judges.real,
        seed=command.config.seed,
        samples=how.samples,
        student=StudentConfig(steps=how.student_steps) if how.student else None,
        precision=command.runtime.precision,
        on_progress=report.progress,
    )


def _record(
    command: Invert, judges: Judges, metrics: Metrics, inversion: Inversion, seconds: float
) -> dict[str, Any]:
    config = command.config
    findings = [finding._asdict() for finding in diagnose(inversion.checks)]
    return {
        "dataset": judges.dataset,
        "preset": config.preset,
        "conditioning": config.conditioning,
        "dropout": config.generator.dropout,
        "seed": config.seed,
        **asdict(metrics),
        "seconds": round(seconds, 1),
        "hardware": hardware_name(),
        PRECISION: precision_name(command.runtime),
        "steps": inversion.checks[-1].step,
        "findings": findings,
    }


def gallery(inversion: Inversion, name: str, metrics: Metrics) -> str:
    """The gallery page: each class's images, the most confident first."""
    classes = []
    for k, class_name in list(enumerate(inversion.class_names))[:MOST_CLASSES]:
        sample = inversion.sample(torch.full((_GALLERY_IMAGES,), k), seed=k)
        confidence = sample.prediction.logits.softmax(1)[:, k]
        order = confidence.argsort(descending=True)
        classes.append(GalleryClass(class_name, sample.images[order], confidence[order].tolist()))
    notes = [
        f"{found.symptom}: {found.text} {found.advice}" for found in diagnose(inversion.checks)
    ]
    return gallery_page(
        f"What '{name}' accepts",
        classes,
        _facts(metrics),
        [*_about(inversion), *notes],
        left_out=inversion.classes - len(classes),
    )


def _about(inversion: Inversion) -> list[str]:
    config = inversion.config
    return [
        f"{inversion.classes} classes, images {inversion.spec}, {config.conditioning} "
        f"conditioning, dropout {config.generator.dropout:g} while sampling, seed {config.seed}.",
    ]


def _facts(metrics: Metrics) -> dict[str, str]:
    """The figures that were measured, as the page shows them."""
    shown = {
        "Inversion accuracy": (metrics.inversion_accuracy, "{:.2%}"),
        "Accuracy by an independent evaluator": (metrics.evaluator_accuracy, "{:.1%}"),
        "Mean confidence": (metrics.confidence, "{:.1%}"),
        "Vendi score per class, pixels": (metrics.vendi_pixel, "{:.2f}"),
        "the same of real images": (metrics.vendi_pixel_real, "{:.2f}"),
        "Coverage of real images": (metrics.coverage, "{:.1%}"),
        "Student's accuracy on real images": (metrics.student_accuracy, "{:.1%}"),
    }
    return {name: form.format(value) for name, (value, form) in shown.items() if value is not None}

"""`preimage audit`: every part within a time, in a run folder, with one page and one JSON file."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from preimage.auditing import acceptance, accuracy, detection, evidence, leaking  # noqa: F401 (they register parts)
from preimage.auditing.answers import Answer, answers, premise
from preimage.auditing.budget import parse_budget
from preimage.auditing.context import Context, Data
from preimage.auditing.page import audit_page
from preimage.auditing.parts import MISSING, Found, LeftOutError, Need, Part, parts
from preimage.auditing.progress import AuditReporter
from preimage.auditing.reconstructed import contents
from preimage.auditing.record import FORMAT, empty_sections, fill
from preimage.classifier import Classifier
from preimage.commands import Audit, Measure
from preimage.data import ImageSet, load
from preimage.data.known import same_source
from preimage.data.order import of_classes
from preimage.data.sources import WHOLE
from preimage.digest import classifier_digest, images_digests
from preimage.environment import environment
from preimage.errors import MissingSplitError, PreimageError
from preimage.files import json_bytes, read_json, text_bytes
from preimage.jobs.measure import Judges, find_judges
from preimage.jobs.ood_sets import check_unknown
from preimage.jobs.report import Reporter, Silent
from preimage.jobs.train import kept_images
from preimage.limits import check_seed
from preimage.run import RunFolder, folder_name, others_in
from preimage.runtime import precision_name
from preimage.settings import CODE, EVALUATOR, IMAGES, PRECISION, WEIGHTS
from preimage.source_code import code_digests
from preimage.sources import load_classifier
from preimage.training import one_device

PAGE_FILE, RECORD_FILE = "audit.html", "audit.json"
_INNER = ("inversion", "hardened", "leak")
_ENTRY = {"name", "question", "state", "reason", "seconds", *(f.name for f in fields(Found))}
_DECIDING = ("accuracy", "noise", "detection", "leak")
"""Parts without which a question has no answer, one of each."""


def audit_job(
    command: Audit,
    report: Reporter | None = None,
    *,
    classifier: Classifier | None = None,
    patient: bool = False,
) -> tuple[dict[str, Any], Path]:
    """Do what there is time for, and leave a page and a record.

    A killed audit goes on with the part that it was in; the page always shows what is done.

    Args:
        command: what to do.
        report: hears of progress.
        classifier: in place of the one that the command names.
        patient: make the inversion even where its fewest steps take longer than there is time for.

    Returns:
        The record, which is also in audit.json, and the run folder.

    Raises:
        PreimageError: for a model, data, a budget, a seed, devices or a folder that do not fit, or
            an audit to replace with others' files in it.
    """
    report = report or Silent()
    # every further process would do the same audit, and meet this one's lock on the folder
    one_device(command.runtime, "an audit")
    budget = parse_budget(command.budget)
    check_seed(command.seed)
    if not command.real and (command.data or command.heldout):
        raise PreimageError(
            "expected no --data or --heldout beside --no-real, found one; leave either out"
        )
    named = classifier is None
    classifier = classifier or load_classifier(command.model)
    heard = AuditReporter(report)
    asked = command.data or kept_images(command.model.model)
    judges = find_judges(
        command.model,
        classifier,
        # other held-out images stand in place of the data set's own, which need not have any
        Measure(asked, command.evaluator, real=command.real and command.heldout is None),
        heard,
    )
    data = _data(command, classifier, judges, heard)
    unknown = _unknown(command, classifier, data)
    path = Path(command.output.out or f"runs/audit-{folder_name(classifier.name)}-{command.seed}")
    settings = {
        "model": asdict(command.model),
        WEIGHTS: classifier_digest(classifier),
        EVALUATOR: classifier_digest(judges.evaluator),
        IMAGES: images_digests(train=data.train, test=data.test) | unknown,
        CODE: code_digests(classifier=classifier, evaluator=judges.evaluator),
        **{n: getattr(command, n) for n in ("data", "heldout", "ood", "evaluator", "real")},
        "budget": budget,
        "seed": command.seed,
        # the runs inside refuse another one, which would leave their parts failed for good
        PRECISION: precision_name(command.runtime),
    }
    if command.output.overwrite:
        _refuse_to_clear(path)
    with RunFolder.create(path, "audit", settings, overwrite=command.output.overwrite) as folder:
        if command.output.overwrite:
            _clear(folder.path)
        if not folder.finished:
            context = Context(
                command, classifier, judges.evaluator, data, named, folder, heard, patient
            )
            _run(context, budget, heard)
        return folder.metrics(), path


def _data(command: Audit, classifier: Classifier, judges: Judges, report: Reporter) -> Data:
    """The images that it was trained on, and others of the same kind."""
    name, test, names = judges.dataset, judges.real, classifier.class_names
    if command.real and command.heldout is not None:
        test = load(command.heldout, "test", spec=classifier.spec)
        test = of_classes(test, names, source=command.heldout, what="images for --heldout")
    if test is None:
        return Data(None, None, None)
    if name is None:
        return Data(command.heldout, None, test)
    train, unread = _train(command, name, classifier, report)
    if train is not None and _same(train, test):
        train = None
    if train is not None:
        train = of_classes(train, names, source=name, what="images for --data")
    split = test.split != WHOLE or command.heldout is not None
    return Data(name, train, test, split, unread)


def _train(
    command: Audit, name: str, classifier: Classifier, report: Reporter
) -> tuple[ImageSet | None, str | None]:
    """The source's training images, and why they could not be read; neither where it has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load(name, "train", spec=classifier.spec), None
    except PreimageError as error:
        if command.heldout is not None and command.data is not None:
            raise  # with other held-out images there is nothing else to take from it
        if command.heldout is None and isinstance(error, MissingSplitError):
            return None, None
        report.warn(f"what needs training images is left out: {error}")
        return None, f"its training images cannot be read: {error}"


def _same(one: ImageSet, other: ImageSet) -> bool:
    """Whether a source without splits gave all of its images for both."""
    return one.images.shape == other.images.shape and bool((one.images == other.images).all())


def _unknown(command: Audit, classifier: Classifier, data: Data) -> dict[str, str | None]:
    """What tells the sets for --ood from others of their names."""
    if not command.ood:
        return {}
    known = [name for name in (data.name, command.heldout) if name is not None]
    for name in command.ood:
        if any(same_source(name, own) for own in known):
            raise PreimageError(
                f"expected --ood to name other data than the classifier's own, found '{name}' as "
                "both; leave it out"
            )
    return check_unknown(command.ood, data.test_digests, classifier.spec)


def _refuse_to_clear(path: Path) -> None:
    """Refuse to replace an audit while files that no run wrote are in its inner runs' folders."""
    for inner in (path / name for name in _INNER):
        others = others_in(inner)
        if others:
            raise PreimageError(
                f"expected nothing but a run in '{inner}', found '{others[0]}'; move it elsewhere, "
                "or choose another folder with --out"
            )


def _clear(path: Path) -> None:
    """Remove the inner runs of the audit that is being replaced."""
    for name in _INNER:
        if (path / name / "config.json").is_file():
            shutil.rmtree(path / name)


def _run(context: Context, budget: float, heard: AuditReporter) -> None:
    folder = context.folder
    context.plan()  # a damaged one would fail every part
    done = _done(folder)
    for i, part in enumerate(parts()):
        if part.name in done:
            continue
        elapsed = sum(entry["seconds"] for entry in done.values())
        heard.begin(part.name, i, len(parts()), budget - elapsed)
        done[part.name] = _do(part, context, _allowed(context, part, done, budget - elapsed))
        folder.write(_part_file(part), json.dumps(done[part.name]).encode())
        folder.write(PAGE_FILE, text_bytes(_page(context, done, budget, finished=False)))
    heard.end(len(parts()))
    record = _record(context, done, budget)
    folder.write(PAGE_FILE, text_bytes(_page(context, done, budget, finished=True)))
    folder.write(RECORD_FILE, json_bytes(record))
    folder.finish(record)


def _part_file(part: Part) -> str:
    return f"part-{part.name}.json"


def _done(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """Parts that an earlier start of this audit came to the end of."""
    files = {part.name: folder.path / _part_file(part) for part in parts()}
    entries = {name: _entry(file) for name, file in files.items() if file.is_file()}
    return {name: entry for name, entry in entries.items() if entry is not None}


def _entry(file: Path) -> dict[str, Any] | None:
    """What a part came to; None where its file is damaged, and the part is to be done anew."""
    with suppress(PreimageError):
        entry = read_json(file)
        if isinstance(entry, dict) and entry.keys() >= _ENTRY:
            return entry
    return None


def _allowed(context: Context, part: Part, done: dict[str, Any], left: float) -> float:
    """The part's share of the time that is left, among those that can still run."""
    waiting = [p for p in parts() if p.name not in done and _wanting(p, context) is None]
    total = sum(p.share for p in waiting) or 1.0
    return max(0.0, left) * part.share / total


def _wanting(part: Part, context: Context) -> str | None:
    """Why a part cannot run at all; None where it can."""
    there: dict[Need, bool] = {
        "train": context.data.train is not None,
        "test": context.data.test is not None,
        "evaluator": context.evaluator is not None,
        "name": context.named,
    }
    why = {**MISSING, "train": context.data.unread or MISSING["train"]}
    return next((why[need] for need in part.needs if not there[need]), None)


def _do(part: Part, context: Context, seconds: float) -> dict[str, Any]:
    """Do one part; one that fails is told on the page, and the others go on."""
    start = time.perf_counter()
    state, reason, found = "done", None, Found()
    wanting = _wanting(part, context)
    try:
        if wanting is not None:
            raise LeftOutError(wanting)
        with nullcontext() if part.job else context.at_work():
            found = part.work(context, seconds)
    except LeftOutError as error:
        state, reason = "left out", str(error)
    except Exception as error:
        # whatever a stranger's network does in one part, the others and the page are worth having
        known = isinstance(error, PreimageError)
        state, reason = "failed", str(error) if known else f"{type(error).__name__}: {error}"
        context.report.warn(f"{part.name} failed: {reason}")
    return {
        "name": part.name,
        "question": part.question,
        "state": state,
        "reason": reason,
        "seconds": round(time.perf_counter() - start, 2),
        **asdict(found),
    }


def _sections(done: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    sections = empty_sections()
    for entry in done.values():
        fill(sections[entry["question"]], entry["figures"])
    return sections


def _answers(done: dict[str, dict[str, Any]]) -> list[Answer]:
    return answers(_sections(done), _reasons(done))


def _premise(done: dict[str, dict[str, Any]]) -> Answer:
    return premise(_sections(done)["task"], _reasons(done).get("task", ""))


def _reasons(done: dict[str, dict[str, Any]]) -> dict[str, str]:
    """By question, why the part that decides it found nothing."""
    why: dict[str, str] = {}
    for name in _DECIDING:
        entry = done.get(name)
        if entry is not None and entry["reason"] is not None:
            text = entry["reason"]
            why[entry["question"]] = f"{text[0].upper()}{text[1:]}."
    return why


def _record(context: Context, done: dict[str, dict[str, Any]], budget: float) -> dict[str, Any]:
    classifier = context.classifier
    kept = ("name", "question", "state", "reason", "seconds")
    made = environment()
    return {
        "format": FORMAT,
        "model": classifier.name,
        "classes": classifier.classes,
        "class_names": list(classifier.class_names[:1000]),
        "image": list(classifier.spec.shape),
        "data": context.data.name,
        "data_split": context.data.split,
        **{name: getattr(context.command, name) for name in ("heldout", "evaluator")},
        "contents": contents(context.folder.settings["config"]),
        "seed": context.command.seed,
        "budget_s": budget,
        "seconds": round(sum(entry["seconds"] for entry in done.values()), 1),
        "premise": asdict(_premise(done)),
        "answers": [asdict(answer) for answer in _answers(done)],
        **_sections(done),
        "parts": [{name: entry[name] for name in kept} for entry in done.values()],
        "plan": context.plan(),
        **{name: made[name] for name in ("versions", "hardware", "commit", "date", "command")},
    }


def _page(
    context: Context, done: dict[str, dict[str, Any]], budget: float, *, finished: bool
) -> str:
    waiting: Sequence[str] = [] if finished else [p.name for p in parts() if p.name not in done]
    return audit_page(_record(context, done, budget), _answers(done), list(done.values()), waiting)

"""`preimage reconstruct`: training-like images, and whether they are training images."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preimage.classifier import Classifier, all_frozen, float32_weights, frozen
from preimage.commands import Reconstruct
from preimage.data import load
from preimage.data.known import KNOWN, known_name, same_source
from preimage.data.order import of_classes
from preimage.digest import classifier_digest, images_digests
from preimage.environment import hardware_name
from preimage.errors import PreimageError
from preimage.files import json_bytes, text_bytes
from preimage.gallery import picture_uris
from preimage.inversion import predict
from preimage.jobs.float32 import in_float32
from preimage.jobs.measure import find_evaluator, own_data
from preimage.jobs.report import Kept, Reporter, Silent
from preimage.jobs.train import kept_images
from preimage.leak.control import Groups, pair
from preimage.leak.first_layer import first_layer
from preimage.leak.loss_membership import image_losses, loss_membership
from preimage.leak.matching import feature_similarities, matched, similarities
from preimage.leak.membership import membership
from preimage.leak.page import leak_page
from preimage.leak.reconstruction import (
    Reconstruction,
    ReconstructProgress,
    reconstruct,
)
from preimage.leak.verdict import COPIED, RECOVERED, Verdict, judge
from preimage.limits import check_control, check_reconstruct
from preimage.pages import Picture, Strip, histogram
from preimage.panels import Panel, histograms, strips
from preimage.run import RunFolder, folder_name
from preimage.runtime import make_fabric, precision_name
from preimage.settings import CODE, EVALUATOR, IMAGES, PRECISION, WEIGHTS
from preimage.source_code import code_digests
from preimage.sources import load_classifier
from preimage.tensors import pack

PAGE_FILE, IMAGES_FILE = "reconstruct.html", "reconstructions.safetensors"
RECORD_FILE = "reconstruct.json"
PANELS_FILE = "panels.json"
"""What other pages show of this one."""
_BEST_PAIRS = 24
_CANDIDATES = 64


def reconstruct_job(
    command: Reconstruct,
    report: Reporter | None = None,
    *,
    classifier: Classifier | None = None,
) -> tuple[dict[str, Any], Path]:
    """Reconstruct, compare with both groups, and leave everything in a run folder.

    Args:
        command: what to do.
        report: hears of progress.
        classifier: in place of the one that the command names.

    Returns:
        The record, which is also in reconstruct.json, and the run folder.

    Raises:
        PreimageError: for a model, data, settings or a folder that do not fit.
        DivergedError: when the loss becomes NaN; the folder keeps the last state.
    """
    report = Kept(report or Silent())
    check_reconstruct(command.config)
    check_control(command.control.most)
    float32 = in_float32(command.runtime, "second derivatives need float32")
    command = replace(command, runtime=float32)
    classifier = classifier or load_classifier(command.model)
    groups = _groups(command, classifier, report)
    evaluator = find_evaluator(command.model, classifier, command.control.evaluator)
    name = folder_name(classifier.name)
    config = command.config
    path = Path(command.output.out or f"runs/reconstruct-{name}-{config.carrier}-{config.seed}")
    settings = {
        "model": asdict(command.model),
        WEIGHTS: classifier_digest(classifier),
        "config": asdict(config),
        "control": asdict(command.control),
        PRECISION: precision_name(command.runtime),
        EVALUATOR: classifier_digest(evaluator),
        IMAGES: images_digests(training=groups.train, held_out=groups.control),
        CODE: code_digests(classifier=classifier, evaluator=evaluator),
    }
    with RunFolder.create(
        path, "reconstruct", settings, overwrite=command.output.overwrite
    ) as folder:
        if not folder.finished:
            found, seconds = _search(folder, command, classifier, report)
            with all_frozen(make_fabric(command.runtime).device, classifier, evaluator):
                compared = _Compared(found, groups, classifier, evaluator, config.seed)
            if evaluator is not None and compared.by_features is None:
                report.warn("similarities by features are left open: the evaluator answers NaN")
            told = _memberships(classifier, compared, config.seed, report)
            tensors = {"images": found.images, "labels": found.labels}
            folder.write(IMAGES_FILE, pack(tensors, {"format": "preimage-images-1"}))
            record = _record(command, classifier, compared, told, seconds, report.warnings)
            panels = _panels(compared)
            folder.write(PANELS_FILE, json.dumps(panels).encode())
            folder.write(PAGE_FILE, text_bytes(leak_page(classifier.name, record, panels)))
            folder.write(RECORD_FILE, json_bytes(record))
            folder.finish(record)
        return folder.metrics(), path


def _groups(command: Reconstruct, classifier: Classifier, report: Reporter) -> Groups:
    control = command.control
    own, kept = own_data(command.model.model), kept_images(command.model.model)
    source = control.data or own or kept
    if source is None:
        raise PreimageError(
            f"expected the data that '{command.model.model}' was trained on, found none; give it "
            "with --data"
        )
    _check_sources(own, source, control.heldout or source, report)
    _check_kept(kept, source, report)
    train = load(source, "train", spec=classifier.spec)
    heldout = load(control.heldout or source, "test", spec=classifier.spec)
    names = classifier.class_names
    train = of_classes(train, names, source=source, what="training images")
    heldout = of_classes(heldout, names, source=control.heldout or source, what="held-out images")
    groups = pair(train, heldout, control.most, command.config.seed)
    if groups.shared:
        report.warn(
            f"{groups.shared} held-out images are training images as well and are left out on both "
            "sides"
        )
    if groups.repeated:
        report.warn(
            f"{groups.repeated} images are equal to another one of their side and are left out, as "
            "copies say nothing of their own"
        )
    if groups.films:
        report.warn(
            "the images of one side come in the order of films and those of the other do not, so "
            "one frame of a film is taken there alone and the p-value is not exact; give both in "
            "their order"
        )
    return groups


def _check_sources(own: str | None, train: str, heldout: str, report: Reporter) -> None:
    """Refuse held-out images of another known data set than the training images are of.

    Whose training images are of another than the bundled classifier's own is told: they may be
    given on purpose, as a control.
    """
    own_name, name, other = (known_name(source) for source in (own or train, train, heldout))
    if name in KNOWN and other in KNOWN and name != other:
        raise PreimageError(
            f"expected held-out images of the training images' data set, {name}, found {other}; "
            "whatever the classifier knows, another set's differ, so give others of the same kind"
        )
    if name in KNOWN and own_name != name:
        report.warn(
            f"the classifier was trained on {own_name} and is compared with images of {name}, so "
            "the verdict says nothing of its training images"
        )


def _check_kept(kept: str | None, source: str, report: Reporter) -> None:
    """Tell where the images that a run kept, all that it saw, are not those to compare with."""
    if kept and not same_source(kept, source):
        report.warn(
            f"the classifier saw only the images in '{kept}' and is compared with those of "
            f"'{source}', most of which it may never have seen; leave --data out to take its own"
        )


def _search(
    folder: RunFolder, command: Reconstruct, classifier: Classifier, report: Reporter
) -> tuple[Reconstruction, float]:
    """Reconstruct, going on from the folder's state; seconds count the earlier parts as well."""
    start = folder.resume_clock()
    found = reconstruct(
        classifier,
        command.config,
        runtime=command.runtime,
        checkpoint=folder,
        on_step=_logger(folder, report, start),
    )
    return found, time.perf_counter() - start


def _logger(
    folder: RunFolder, report: Reporter, start: float
) -> Callable[[ReconstructProgress], None]:
    def on_step(progress: ReconstructProgress) -> None:
        if progress.what == "unmixing":
            report.progress("unmixing", progress.step, progress.steps)
            return
        seconds = time.perf_counter() - start
        folder.log(step=progress.step, seconds=seconds, **progress.values)
        note = ", ".join(
            f"{name} {progress.values[name]:.3g}"
            for name in ("ce", "stationarity")
            if name in progress.values
        )
        report.progress("steps", progress.step, progress.steps, note)

    return on_step


class _Compared:
    """Reconstructions beside both groups."""

    def __init__(
        self,
        found: Reconstruction,
        groups: Groups,
        classifier: Classifier,
        evaluator: Classifier | None,
        seed: int,
    ):
        self.found, self.groups = found, groups
        self.count = len(groups.train)
        both = torch.cat([groups.train.floats(), groups.control.floats()])
        # chosen among all, not by group: then the groups can change places
        self.pixels = similarities(found.images, both, _CANDIDATES)
        self.verdict = self._judge(self.pixels, seed)
        self.by_features = None if evaluator is None else self._by_features(evaluator, both, seed)
        self.accepted = _right(predict(classifier, found.images).logits, found.labels)
        seen, unseen = predict(classifier, both).logits.split(self.count)
        self.losses = (
            image_losses(seen, groups.train.labels),
            image_losses(unseen, groups.control.labels),
        )
        self.accuracy = _right(unseen, groups.control.labels)

    def matched(self, similarity: Tensor) -> tuple[Tensor, Tensor]:
        """Similarities of reconstructions and different images of their class, in both groups."""
        (train, control), labels = self._halves(similarity), self.found.labels
        return (
            matched(train, labels, self.groups.train.labels),
            matched(control, labels, self.groups.control.labels),
        )

    def nearest(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Similarity and row of each reconstruction's nearest image in both groups."""
        train, control = self._halves(self.pixels)
        return tuple(train.max(1)), tuple(control.max(1))  # type: ignore[return-value]

    def _halves(self, similarity: Tensor) -> tuple[Tensor, Tensor]:
        return similarity[:, : self.count], similarity[:, self.count :]

    def _judge(self, similarity: Tensor, seed: int) -> Verdict:
        return judge(*self._halves(similarity), seed)

    def _by_features(
        self, evaluator: Classifier, both: Tensor, seed: int
    ) -> dict[str, float] | None:
        """Similarities of the nearest and of those matched one to one, and effect; no verdict.

        An evaluator mostly knows the training images itself and not the others, and its features
        tell them apart whatever the classifier in question tells. None where it answers NaN.
        """
        found, real = (predict(evaluator, images).features for images in (self.found.images, both))
        similarity = feature_similarities(found, real)
        if bool(similarity.isnan().any()):
            return None
        judged = self._judge(similarity, seed)
        names = ("similarity_train", "similarity_control", "effect")
        pairs = zip(("matched_train", "matched_control"), self.matched(similarity), strict=True)
        return {
            **{name: getattr(judged, name) for name in names},
            **{name: float(part.mean()) for name, part in pairs},
        }


def _right(logits: Tensor, labels: Tensor) -> float:
    """Share of answers (N, K) that give the label (N,)."""
    return float((logits.argmax(1) == labels).double().mean())


def _memberships(
    classifier: Classifier, compared: _Compared, seed: int, report: Reporter
) -> dict[str, dict[str, Any] | None]:
    """What tells training images without reconstructions; nothing where films are on one side."""
    groups = compared.groups
    if groups.films:
        return {"membership": None, "membership_loss": None}
    return {
        "membership": _by_first_layer(classifier, groups, seed, report),
        "membership_loss": _by_loss(compared, seed, report),
    }


def _by_loss(compared: _Compared, seed: int, report: Reporter) -> dict[str, Any] | None:
    try:
        return asdict(loss_membership(*compared.losses, seed, compared.groups.labels))
    except PreimageError as error:  # it answers NaN for some images: the verdict is there
        report.warn(f"whether the loss tells training images is left open: {error}")
        return None


def _by_first_layer(
    classifier: Classifier, groups: Groups, seed: int, report: Reporter
) -> dict[str, Any] | None:
    """None without a dense first layer that can tell."""
    with frozen(classifier), float32_weights(classifier):
        layer = first_layer(classifier)
    if layer is None:
        return None
    try:
        both = groups.train.floats(), groups.control.floats()
        found = membership(layer, *both, seed, groups.labels)
    except RuntimeError as error:  # too large, or without a decomposition: the verdict is there
        report.warn(f"whether the first layer tells its training images is left open: {error}")
        return None
    return None if found is None else asdict(found)


def _record(
    command: Reconstruct,
    classifier: Classifier,
    compared: _Compared,
    told: dict[str, dict[str, Any] | None],
    seconds: float,
    warnings: list[str],
) -> dict[str, Any]:
    verdict = compared.verdict
    pairs = compared.matched(compared.pixels)
    recovered, control = (int((part > RECOVERED).sum()) for part in pairs)
    copied, copied_control = (int((part > COPIED).sum()) for part in pairs)
    groups = compared.groups
    return {
        "dataset": groups.train.name,
        "arch": classifier.arch,
        "n_train": groups.known,
        "classes": groups.train.classes,
        "seed": command.config.seed,
        "method": f"preimage-{command.config.carrier}",
        "recovered": recovered,
        "recovered_control": control,
        "copied": copied,
        "copied_control": copied_control,
        "ssim_train": verdict.similarity_train,
        "ssim_control": verdict.similarity_control,
        "effect": verdict.effect,
        "interval": list(verdict.interval),
        "p_value": verdict.p_value,
        "verdict": verdict.verdict,
        "reason": verdict.reason,
        "by_features": compared.by_features,
        **told,
        "unmixed": compared.found.unmixed,
        "accepted": compared.accepted,
        "target_accuracy": compared.accuracy,
        "images_each": compared.count,
        "shared": groups.shared,
        "repeated": groups.repeated,
        "warnings": warnings,
        "seconds": round(seconds, 1),
        "hardware": hardware_name(),
        PRECISION: precision_name(command.runtime),
    }


def _panels(compared: _Compared) -> list[Panel]:
    (near, rows), (far, others) = compared.nearest()
    best = near.argsort(descending=True)[:_BEST_PAIRS]
    shown = (
        compared.found.images[best],
        compared.groups.train.floats(rows[best]),
        compared.groups.control.floats(others[best]),
    )
    uris = [picture_uris(images) for images in shown]
    texts = (
        [compared.groups.train.class_names[k] for k in compared.found.labels[best].tolist()],
        [f"similarity {value:.2f}" for value in near[best].tolist()],
        [f"similarity {value:.2f}" for value in far[best].tolist()],
    )
    names = ("Reconstruction", "Nearest training image", "Nearest held-out image")
    pairs = [
        Strip(title, "", [Picture(*both) for both in zip(part, text, strict=True)])
        for title, part, text in zip(names, uris, texts, strict=True)
    ]
    key = (
        "held-out",
        "training",
        "images; the dashed line is where an image counts as recovered.",
    )
    plot = histogram("nearest similarity", far, near, RECOVERED)
    return [
        histograms("Nearest similarities", key, [plot]),
        strips(
            "The best pairs",
            "The reconstructions that resemble a training image most, one below the other with "
            "the nearest image of both groups.",
            pairs,
        ),
    ]

"""`preimage ood train`: a detector in a run folder."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from preimage.classifier import Classifier, frozen
from preimage.commands import OodTrain
from preimage.config import ModelConfig, TrainConfig
from preimage.data import ImageSet, load
from preimage.data.order import in_order
from preimage.data.overlap import not_among
from preimage.digest import classifier_digest, images_digests
from preimage.errors import PreimageError
from preimage.files import text_bytes
from preimage.jobs.report import Reporter, Silent
from preimage.jobs.train import test_set, train_config
from preimage.limits import check_harden, check_tpr, check_train
from preimage.losses import imported_terms
from preimage.ood.detector import DETECTOR_FILE, Detector
from preimage.ood.hardening import Hardened, HardenEpoch, harden
from preimage.ood.page import pool_page
from preimage.ood.recipe import FromModel, FromScratch, Recipe
from preimage.run import RunFolder, folder_name
from preimage.runtime import make_fabric, precision_name
from preimage.settings import CODE, IMAGES, PRECISION, WEIGHTS
from preimage.source_code import code_digests
from preimage.sources import load_classifier, trained_file
from preimage.training import accuracy_on, batch_count
from preimage.types import ImageSpec
from preimage.zoo import bundled
from preimage.zoo.cards import read_card

POOL_FILE = "garbage.html"
_FEW_EPOCHS, _FEW_STEPS = 3, 600


def ood_train_job(command: OodTrain, report: Reporter | None = None) -> tuple[dict[str, Any], Path]:
    """Harden, choose a threshold, and leave everything in a run folder.

    Returns:
        The record and the run folder.

    Raises:
        PreimageError: for data, a model, settings or a folder that do not fit.
        DivergedError: when a loss becomes NaN; the folder keeps the last epoch's state.
    """
    report = report or Silent()
    check_train(train_config(command))
    check_harden(command.harden)
    check_tpr(command.tpr)
    given = _given(command, report)
    training = _training(command, len(given.data))
    name = Path(command.dataset).stem or command.dataset
    own = folder_name(f"ood-{name}-{_kind(command)}-{training.seed}")
    path = Path(command.output.out or f"runs/{own}")
    settings = _settings(command, training, given)
    again = command.output.overwrite
    with RunFolder.create(path, "ood train", settings, overwrite=again) as folder:
        if folder.finished:
            return folder.metrics(), path
        folder.rewind_to_state()

        def on_epoch(epoch: HardenEpoch) -> None:
            folder.log(step=epoch.epoch, **asdict(epoch))
            note = (
                f"held-out accuracy {epoch.valid_accuracy:.2%}, garbage {epoch.garbage} images, "
                f"recall {epoch.garbage_recall:.1%}"
            )
            report.progress("epochs", epoch.epoch, training.epochs, note)

        hardened = harden(
            given.data,
            command.harden,
            training,
            start=given.start,
            heldout=given.heldout,
            runtime=command.runtime,
            checkpoint=folder,
            on_epoch=on_epoch,
        )
        recipe = _recipe(command, training, given.data, hardened.classifier)
        detector = Detector(hardened.classifier, recipe=recipe)
        with frozen(hardened.classifier, make_fabric(command.runtime).device):
            detector.fit(
                hardened.split.validation,
                command.tpr,
                reference=hardened.split.reference,
                unfamiliar=hardened.split.unfamiliar,
                films=hardened.split.films,
            )
            record = _record(name, training, hardened, detector, given.test)
        folder.write(DETECTOR_FILE, detector.to_bytes())
        folder.write(POOL_FILE, text_bytes(pool_page(name, hardened)))
        folder.finish({**record, PRECISION: precision_name(command.runtime)})
        return folder.metrics(), path


class _Given(NamedTuple):
    """What a run starts from."""

    start: Classifier | None
    data: ImageSet
    heldout: ImageSet | None
    test: ImageSet | None


def _given(command: OodTrain, report: Reporter) -> _Given:
    """Load what the command names, in one order of classes and one shape of image."""
    _refuse_unused(command)
    start = load_classifier(command.start) if command.start.model else None
    # without a model, --image says what to convert the images to
    asked = ImageSpec(*command.start.image) if command.start.image else None
    data = load(command.dataset, "train", spec=start.spec if start else asked)
    if start is not None:
        data = in_order(data, start.class_names, "the classifier")
    heldout = _heldout(command.heldout, data, report)
    test = test_set(command.dataset, data, report)
    if heldout is not None and test is not None and len(not_among(heldout, test)) < len(test):
        report.warn(
            "held-out images are test images as well, so figures on the test split are not of "
            "images that nothing was chosen by"
        )
    return _Given(start, data, heldout, test)


def _refuse_unused(command: OodTrain) -> None:
    """Say so where a setting is of a network to load and none is, or of one to build."""
    if command.start.model:
        usual = {field.name: field.default for field in fields(OodTrain)}
        given = [name for name in ("arch", "width") if getattr(command, name) != usual[name]]
        why = "which is that of --model already"
    else:
        given = [name for name, value in vars(command.start).items() if value is not None]
        given = [name for name in given if name not in ("model", "image")]
        why = "as without --model a network is built anew"
    if given:
        name = given[0].replace("_", "-")
        raise PreimageError(f"expected no --{name}, found one; leave it out, {why}")


def _heldout(source: str | None, data: ImageSet, report: Reporter) -> ImageSet | None:
    if source is None:
        return None
    heldout = in_order(load(source, "test", spec=data.spec), data.class_names, "the training set")
    if heldout.classes == data.classes:
        shared = len(heldout) - len(not_among(data, heldout))
        if shared:
            report.warn(f"{shared} held-out images are training images as well and are left out")
    return heldout


def _settings(command: OodTrain, training: TrainConfig, given: _Given) -> dict[str, Any]:
    """What makes a run another one."""
    return {
        "dataset": command.dataset,
        "start": asdict(command.start),
        WEIGHTS: classifier_digest(given.start),
        "training": asdict(training),
        "harden": asdict(command.harden),
        "heldout": command.heldout,
        "tpr": command.tpr,
        PRECISION: precision_name(command.runtime),
        IMAGES: images_digests(training=given.data, held_out=given.heldout, test=given.test),
        CODE: code_digests(imported_terms(command.harden.inversion_terms), classifier=given.start),
    }


def _training(command: OodTrain, images: int) -> TrainConfig:
    """The settings; a trained classifier needs few epochs, unless they are short ones."""
    config = train_config(command)
    if not command.start.model or command.epochs is not None:
        return config
    return replace(config, epochs=few_epochs(images, config.batch))


def few_epochs(images: int, batch: int) -> int:
    """Epochs that a classifier needs that is trained already."""
    return max(_FEW_EPOCHS, -(-_FEW_STEPS // batch_count(images, batch)))


def _kind(command: OodTrain) -> str:
    """What the folder is called after, apart from data and seed."""
    if not command.start.model:
        return command.arch
    return folder_name(Path(command.start.model).stem)


def _recipe(
    command: OodTrain, training: TrainConfig, data: ImageSet, classifier: Classifier
) -> Recipe:
    if command.start.model:
        start = ModelConfig(**vars(command.start))
        return FromModel(
            replace(start, class_names=None),
            command.harden.head,
            reference=_reference(start.model),
            class_names=data.class_names if start.class_names else None,
        )
    return FromScratch(
        arch=training.arch,
        width=training.width,
        image=data.spec.shape,
        class_names=data.class_names,
        mean=tuple(classifier.mean.flatten().tolist()),
        std=tuple(classifier.std.flatten().tolist()),
    )


def _reference(model: str) -> FromScratch | None:
    """How to build a classifier that `preimage train` made; others have code of their own."""
    file = trained_file(model)
    if model in bundled() or file.suffix != ".safetensors":
        return None
    card = read_card(file)
    return FromScratch(card.arch, card.width, card.image, card.class_names, card.mean, card.std)


def _record(
    name: str,
    training: TrainConfig,
    hardened: Hardened,
    detector: Detector,
    test: ImageSet | None,
) -> dict[str, Any]:
    kept = hardened.kept
    return {
        "dataset": name,
        "arch": hardened.classifier.arch,
        "seed": training.seed,
        "epochs": len(hardened.epochs),
        "garbage": len(hardened.pool),
        "rounds": hardened.pool.last_round,
        "valid_accuracy": kept.valid_accuracy,
        "test_accuracy": None if test is None else _accuracy(hardened.classifier, test),
        "garbage_recall": kept.garbage_recall,
        "went_back": sum(epoch.verdict != "good" for epoch in hardened.epochs),
        "stopped_early": hardened.epochs[-1].verdict == "stop",
        "threshold": detector.threshold,
        "seconds": round(sum(epoch.seconds for epoch in hardened.epochs), 1),
    }


def _accuracy(classifier: Classifier, test: ImageSet) -> float:
    """On the test split; an image that is sent to garbage counts as wrong."""
    return accuracy_on(classifier, test.convert(classifier.spec))

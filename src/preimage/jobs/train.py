"""`preimage train`: a reference classifier in a run folder."""

from __future__ import annotations

import shlex
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from preimage.classifier import Classifier, frozen
from preimage.commands import Fit, Train
from preimage.config import FEW, RECIPES, Augmentation, Recipe, Runtime, TrainConfig
from preimage.data import ImageSet, load
from preimage.data.known import known_name
from preimage.data.portion import few_images, to_npz, two_classes
from preimage.digest import images_digests
from preimage.errors import PreimageError
from preimage.fitting import privacy_spent
from preimage.jobs.report import Reporter, Silent
from preimage.limits import check_train
from preimage.run import RunFolder, folder_name
from preimage.runtime import make_fabric, precision_name
from preimage.settings import IMAGES, PRECISION
from preimage.sources import CLASSIFIER_FILE
from preimage.training import Epoch, accuracy_on, batch_count, train
from preimage.types import ImageSpec
from preimage.zoo.cards import Card, to_bytes

IMAGES_FILE = "images.npz"
"""With --limit, the images that were trained on, as its train split, and as many others."""
_ALWAYS = ("arch", "epochs", "seed")
_ELSEWHERE = ("dataset", "runtime", "output", "portion", "fitting")


def kept_images(model: str) -> str | None:
    """The file of images that a run folder of a training with --limit holds; None elsewhere."""
    file = Path(model) / IMAGES_FILE
    return str(file) if file.is_file() else None


def train_config(command: Fit, recipe: Recipe | None = None) -> TrainConfig:
    """The command's settings, the recipe or that of the data set where they are silent."""
    known = recipe or RECIPES.get(known_name(command.dataset))
    recipe = known or Recipe(TrainConfig.epochs, Augmentation())
    names = ("flip", "shift", "rotate", "scale", "contrast")
    given = {name: getattr(command, name) for name in names}
    return TrainConfig(
        arch=command.arch,
        width=command.width,
        epochs=recipe.epochs if command.epochs is None else command.epochs,
        batch=recipe.batch if command.batch is None else command.batch,
        optimizer=command.optimizer,
        lr=command.lr,
        weight_decay=command.weight_decay,
        augmentation=replace(
            recipe.augmentation, **{k: v for k, v in given.items() if v is not None}
        ),
        seed=command.seed,
    )


def train_job(command: Train, report: Reporter | None = None) -> tuple[dict[str, Any], Path]:
    """Train, test, and keep the classifier with its card.

    Returns:
        The card as a dictionary, and the run folder.

    Raises:
        PreimageError: for data, settings or a folder that do not fit.
    """
    report = report or Silent()
    recipe = None if command.portion.limit is None else FEW
    config = replace(train_config(command, recipe), fitting=command.fitting)
    check_train(config)
    data, others, test = _data(command, report)
    name = folder_name(Path(command.dataset).stem or command.dataset)
    path = Path(command.output.out or f"runs/train-{name}-{config.arch}-{config.seed}")
    settings = {
        "dataset": command.dataset,
        "image": command.image,
        "portion": asdict(command.portion),
        "config": asdict(config),
        PRECISION: precision_name(command.runtime),
        IMAGES: images_digests(training=data, test=test),
    }
    with RunFolder.create(path, "train", settings, overwrite=command.output.overwrite) as folder:
        if folder.finished:
            return folder.metrics(), path
        folder.rewind_to_state()

        def on_epoch(epoch: Epoch) -> None:
            folder.log(step=epoch.epoch, **asdict(epoch))
            note = f"loss {epoch.loss:.3f}, training accuracy {epoch.train_accuracy:.2%}"
            report.progress("epochs", epoch.epoch, config.epochs, note)

        classifier = train(
            data, config, runtime=command.runtime, checkpoint=folder, on_epoch=on_epoch
        )
        epochs = int(folder.metrics_log()[-1]["step"])
        with frozen(classifier, make_fabric(command.runtime).device):
            card = _card(command, config, epochs, data, classifier, test)
        folder.write(CLASSIFIER_FILE, to_bytes(classifier.network, card))
        if others is not None:
            folder.write(IMAGES_FILE, to_npz(data, others))
        folder.finish(asdict(card))
        return folder.metrics(), path


def _data(command: Train, report: Reporter) -> tuple[ImageSet, ImageSet | None, ImageSet | None]:
    """What to train on, as much that is left out where there is a limit, and the test split."""
    portion = command.portion
    spec = None if command.image is None else ImageSpec(*command.image)
    data, others = load(command.dataset, "train", spec=spec), None
    test = test_set(command.dataset, data, report)
    if portion.limit is not None:
        data, others = few_images(data, portion.limit, command.seed)
    if portion.positive:
        data = two_classes(data, portion.positive)
        others = others and two_classes(others, portion.positive)
        test = test and two_classes(test, portion.positive)
    return data, others, test


def test_set(dataset: str, data: ImageSet, report: Reporter) -> ImageSet | None:
    """The test split in the shape of `data`; None, and a warning, where there is none."""
    if data.split == "all":
        report.warn(
            f"'{dataset}' has no test split, so the accuracy on unseen images stays unknown"
        )
        return None
    try:
        # of the training's shape: what does not fit would show after the whole training only
        return load(dataset, "test", spec=data.spec)
    except PreimageError as error:
        report.warn(f"the accuracy on unseen images stays unknown: {error}")
        return None


def _card(
    command: Train,
    config: TrainConfig,
    epochs: int,
    data: ImageSet,
    classifier: Classifier,
    test: ImageSet | None,
) -> Card:
    """The card of a training that ended after so many epochs, fewer than asked for if it might."""
    steps = epochs * batch_count(len(data), config.batch)
    return Card(
        dataset=data.name,
        arch=config.arch,
        width=config.width,
        image=data.spec.shape,
        class_names=data.class_names,
        mean=tuple(classifier.mean.flatten().tolist()),
        std=tuple(classifier.std.flatten().tolist()),
        seed=config.seed,
        epochs=epochs,
        train_images=len(data),
        parameters=sum(p.numel() for p in classifier.network.parameters()),
        test_accuracy=None if test is None else accuracy_on(classifier, test),
        train_accuracy=accuracy_on(classifier, data),
        epsilon=privacy_spent(config.fitting, len(data), config.batch, steps),
        # the epochs that were asked for, also where fewer were done: the schedule follows from them
        command=command_line(replace(command, epochs=config.epochs)),
    )


def command_line(command: Train) -> str:
    """What trains the same classifier again: all settings that matter and are not as usual."""
    words = ["preimage", "train", command.dataset]
    for part in (command, command.portion, command.fitting):
        for setting in fields(part):
            name, value = setting.name, getattr(part, setting.name)
            if name in _ELSEWHERE or (name not in _ALWAYS and value == setting.default):
                continue
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    if command.runtime.precision != Runtime.precision:
        words += ["--precision", command.runtime.precision]
    return shlex.join(words)

"""`preimage train`: a reference classifier in a run folder."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from preimage.classifier import Classifier
from preimage.commands import Train
from preimage.config import RECIPES, Augmentation, Recipe, TrainConfig
from preimage.data import ImageSet, load
from preimage.errors import PreimageError
from preimage.jobs.report import Reporter, Silent
from preimage.limits import check_train
from preimage.run import RunFolder
from preimage.sources import CLASSIFIER_FILE
from preimage.training import Epoch, accuracy_on, train
from preimage.zoo.cards import Card, to_bytes


def train_config(command: Train) -> TrainConfig:
    """The command's settings, the data set's recipe where they are silent."""
    known = RECIPES.get(command.dataset.replace("-", "_"))
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
    config = train_config(command)
    check_train(config)
    data = load(command.dataset, "train")
    test = test_set(command.dataset, data, report)
    name = Path(command.dataset).stem or command.dataset
    path = Path(command.output.out or f"runs/train-{name}-{config.arch}-{config.seed}")
    settings = {"dataset": command.dataset, "config": asdict(config)}
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
        card = _card(command, config, data, classifier, test)
        folder.write(CLASSIFIER_FILE, to_bytes(classifier.network, card))
        folder.finish(asdict(card))
        return folder.metrics(), path


def test_set(dataset: str, data: ImageSet, report: Reporter) -> ImageSet | None:
    """The test split; None, and a warning, where there is none of its own."""
    if data.split == "all":
        report.warn(
            f"'{dataset}' has no test split, so the accuracy on unseen images stays unknown"
        )
        return None
    try:
        return load(dataset, "test")
    except PreimageError as error:
        report.warn(f"the accuracy on unseen images stays unknown: {error}")
        return None


def _card(
    command: Train,
    config: TrainConfig,
    data: ImageSet,
    classifier: Classifier,
    test: ImageSet | None,
) -> Card:
    width = f" --width {config.width}" if config.width else ""
    return Card(
        dataset=data.name,
        arch=config.arch,
        width=config.width,
        image=data.spec.shape,
        class_names=data.class_names,
        mean=tuple(classifier.mean.flatten().tolist()),
        std=tuple(classifier.std.flatten().tolist()),
        seed=config.seed,
        epochs=config.epochs,
        train_images=len(data),
        parameters=sum(p.numel() for p in classifier.network.parameters()),
        test_accuracy=None if test is None else accuracy_on(classifier, test),
        command=f"preimage train {command.dataset} --arch {config.arch}{width} "
        f"--epochs {config.epochs} --seed {config.seed}",
    )

"""What the presets are for, on a classifier that is small enough to train here."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import tyro

from preimage.classifier import Classifier, frozen
from preimage.commands import command_type
from preimage.config import PRESETS, Runtime
from preimage.diagnostics import class_diversity
from preimage.loop import default_objective, invert
from preimage.runtime import stream
from preimage.terms.prior import batch_norm
from preimage.types import ImageSpec
from preimage.zoo.architectures import build
from tiny import draw_sample, fit

SPEC = ImageSpec(1, 12, 12)
CPU = Runtime(accelerator="cpu", precision="32-true")


def bars(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Bars of any place and brightness on a dark ground: lying, standing, falling, rising."""
    random = stream("bars", seed)
    labels = torch.arange(count) % 4
    images = torch.rand(count, 1, 12, 12, generator=random) * 0.1
    across = torch.arange(12)
    places = torch.randint(2, 10, (count,), generator=random)
    light = torch.rand(count, generator=random) * 0.4 + 0.5
    for image, label, place, bright in zip(images, labels, places, light, strict=True):
        line = (place, across, (across + place) % 12, (place - across) % 12)[int(label)]
        rows, columns = (line, across) if int(label) != 1 else (across, place)
        image[0, rows, columns] = bright
    return images, labels


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    network = fit(build("cnn", SPEC, 4, 8), lambda step: bars(128, step), 120)
    images, labels = bars(400, 999)
    classifier = Classifier(network, SPEC)
    assert (classifier(images).logits.argmax(1) == labels).float().mean() > 0.9
    return classifier


ALONE = replace(
    PRESETS["paper"],
    conditioning="label",
    generator=replace(PRESETS["paper"].generator, dropout=0.0),
    alpha=0.0,
    gamma=0.0,
    delta=0.0,
)
"""Cross-entropy and nothing else, known to collapse."""


@pytest.fixture(scope="module")
def inverted(classifier):
    """Accuracy, diversity and prior of short runs of the presets, and of cross-entropy alone."""
    figures = {}
    for name, preset in {**PRESETS, "alone": ALONE}.items():
        small = replace(preset.generator, width=8, latent=16)
        config = replace(preset, generator=small, members=1, steps=300, stop_at=None)
        config = replace(config, batch=64, lr=4e-3)
        sample = invert(classifier, config, runtime=CPU).sample(torch.arange(400) % 4)
        with frozen(classifier), torch.no_grad():
            layers = classifier.observe(sample.images)[1]
        label = sample.condition.label
        figures[name] = {
            "accuracy": float((sample.prediction.logits.argmax(1) == label).float().mean()),
            "diversity": class_diversity(sample.images, label)[0],
            "divergence": float(batch_norm(draw_sample()._replace(layers=layers))),
        }
    return figures


def test_every_preset_is_named_after_itself_and_has_terms_that_exist():
    for name, preset in PRESETS.items():
        assert preset.preset == name
        assert default_objective(preset).terms


def test_natural_is_accurate_and_nearest_to_the_training_data(inverted):
    assert inverted["natural"]["accuracy"] > 0.9
    divergence = {name: figures["divergence"] for name, figures in inverted.items()}
    assert divergence["natural"] < 0.5 * divergence["paper"]


def test_natural_and_explore_do_not_collapse(inverted):
    for name in ("natural", "explore"):
        assert inverted[name]["diversity"] > 1.5 * inverted["alone"]["diversity"]


@pytest.mark.parametrize(
    ("arguments", "preset"),
    [
        (["--preset", "paper"], "paper"),
        (["--preset", "natural", "--preset=explore"], "explore"),
        (["--preset=explore", "--preset", "natural", "--steps", "5"], "natural"),
        ([], "natural"),
    ],
)
def test_all_settings_are_those_of_the_preset_asked_for_last(arguments, preset):
    given = ["invert", "mnist", *arguments]
    flags = (tyro.conf.PositionalRequiredArgs,)
    config = tyro.cli(command_type(given), args=given, config=flags).config
    assert config == replace(PRESETS[preset], steps=config.steps)

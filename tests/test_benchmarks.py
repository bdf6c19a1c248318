"""The benchmarks' own code: what they switch, and the peers that they compare with."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import tyro

from preimage.classifier import Classifier, frozen
from preimage.commands import command_type
from preimage.config import PRESETS
from preimage.limits import check_invert
from preimage.records import read_records
from preimage.runtime import stream
from preimage.terms.prior import batch_norm
from preimage.types import ImageSpec, Prediction
from preimage.zoo.architectures import build
from tiny import draw_sample, fit

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from ablation import VARIANTS
from common import record_missing
from peer_methods import METHODS, optimise
from peers import Pool

SPEC = ImageSpec(1, 12, 12)


def parsed(arguments):
    return tyro.cli(
        command_type(arguments), args=arguments, config=(tyro.conf.PositionalRequiredArgs,)
    )


def test_every_variant_is_a_command_and_no_two_are_the_same():
    configs = []
    for arguments in VARIANTS.values():
        command = parsed(["invert", "mnist", *arguments, "--seed", "0"])
        check_invert(command.config)
        configs.append(command.config)
    assert len(set(configs)) == len(VARIANTS)


def test_a_variant_changes_what_it_says():
    def config(name):
        return parsed(["invert", "mnist", *VARIANTS[name]]).config

    natural = config("natural")
    without = config("natural without separation")
    kept = tuple(term for term in PRESETS["natural"].terms if not term.startswith("separation"))
    assert without == replace(natural, terms=kept) and len(kept) == len(natural.terms) - 1
    assert config("natural, one member") == replace(natural, members=1)
    assert config("paper") == PRESETS["paper"]
    assert config("paper without ce") == replace(PRESETS["paper"], beta=0.0)
    assert config("natural, dropout 0.5").generator.dropout == 0.5


def test_what_is_recorded_is_not_measured_again_unless_asked(tmp_path):
    file, asked = tmp_path / "x.json", []

    def measure(seed, dataset):
        asked.append((seed, dataset))
        return [{"dataset": dataset, "seed": seed, "value": len(asked)}]

    axes = {"seed": [0, 1], "dataset": ["a", "b"]}
    for again in (False, False, True):
        record_missing(file, axes, measure, ("dataset", "seed"), again)
    assert asked == [(0, "a"), (0, "b"), (1, "a"), (1, "b")] * 2
    assert sorted(record["value"] for record in read_records(file)) == [5, 6, 7, 8]


@pytest.fixture(scope="module")
def classifier():
    """Tells how bright an image is, wherever it is mirrored or moved, by a net with batch norm."""
    torch.manual_seed(0)
    labels = torch.arange(128) % 4

    def batch(_):
        return torch.rand(128, *SPEC.shape) * 0.2 + labels[:, None, None, None] * 0.25, labels

    return Classifier(fit(build("cnn", SPEC, 4, 8), batch, 60), SPEC)


@pytest.mark.parametrize("name", METHODS)
def test_a_peer_makes_images_of_the_wanted_class(name, classifier):
    labels = torch.arange(8) % 4
    method = replace(METHODS[name], steps=200)
    before = torch.get_rng_state()
    with frozen(classifier):
        images = optimise(method, classifier, labels, seed=0)
        again = optimise(method, classifier, labels, seed=0)
        with torch.no_grad():
            answers = classifier(images).logits.argmax(1)
    assert images.shape == (8, *SPEC.shape) and images.min() >= 0 and images.max() <= 1
    assert torch.equal(images, again) and torch.equal(torch.get_rng_state(), before)
    assert (answers == labels).float().mean() >= 0.75
    assert len(images.unique(dim=0)) == 8


def test_batch_norm_statistics_set_deepinversion_apart_from_ascent(classifier):
    labels = torch.arange(16) % 4
    divergence = {}
    with frozen(classifier):
        for name in ("pixel-ascent", "deepinversion"):
            images = optimise(replace(METHODS[name], steps=60), classifier, labels, seed=0)
            with torch.no_grad():
                layers = classifier.observe(images)[1]
            divergence[name] = float(batch_norm(draw_sample(16)._replace(layers=layers)))
    assert divergence["deepinversion"] < divergence["pixel-ascent"]


def test_a_pool_gives_every_image_once_before_it_begins_again():
    images = torch.rand(9, 1, 8, 8, generator=stream("i"))
    labels = torch.arange(9) % 3
    pool = Pool(images, labels, Prediction(torch.randn(9, 3), torch.randn(9, 5)))
    first = torch.cat([pool(torch.arange(3), seed=i).images for i in range(3)])
    assert torch.equal(first, images)
    repeated = pool(torch.tensor([2, 0]), seed=9)
    assert torch.equal(repeated.images, images[[2, 0]])
    assert torch.equal(repeated.prediction.logits, pool.prediction.logits[[2, 0]])

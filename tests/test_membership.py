"""Telling training images by what training wrote into the first layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny
from preimage.auditing.answers import answers
from preimage.auditing.reconstructed import leak_figures
from preimage.auditing.record import empty_sections, fill
from preimage.cli import main
from preimage.errors import PreimageError
from preimage.leak.membership import membership
from test_unmixing import COUNT, UNITS, layer, mixture, pictures

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (4.0, -0.5)])
def test_training_images_lie_in_what_training_wrote(scale, shift):
    inputs = pictures(2 * COUNT) * scale + shift
    found = membership(
        layer(mixture(inputs), scale, shift), pictures(2 * COUNT), pictures(2 * COUNT, "others")
    )
    assert found.directions == 2 * COUNT
    assert found.auroc == 1.0 and found.p_value == 1 / 2000
    assert found.outside_train < 0.01 < 0.1 < found.outside_control < 1


def test_two_unseen_groups_are_not_told_apart():
    weights = layer(mixture(pictures()))
    p_values = [
        membership(weights, pictures(20, f"a{i}"), pictures(20, f"b{i}"), seed=i).p_value
        for i in range(40)
    ]
    # uniform where nothing differs: at most a few below 0.05 and about half above 0.5
    assert sum(p <= 0.05 for p in p_values) <= 6
    assert 10 <= sum(p > 0.5 for p in p_values) <= 30


def test_groups_that_are_alike_tell_nothing_at_all():
    found = membership(layer(mixture(pictures())), pictures(), pictures())
    assert found.auroc == pytest.approx(0.5) and found.p_value > 0.3


def test_a_layer_that_learnt_nothing_guesses():
    noise = torch.randn(120, 197, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = membership(layer(noise), pictures(), pictures(key="others"))
    assert (found.directions, found.auroc, found.p_value) == (0, 0.5, 1.0)


def test_a_layer_that_training_wrote_all_of_cannot_tell():
    whole = layer(mixture(pictures(UNITS - 2)))
    assert membership(whole, pictures(), pictures(key="others")) is None


def test_groups_of_other_sizes_are_refused():
    with pytest.raises(PreimageError, match="as many held-out images as training images"):
        membership(layer(mixture(pictures())), pictures(), pictures(5))


def test_the_record_and_the_page_of_a_reconstruction_tell_it(capsys):
    data = str(tiny.write_npz(Path("bands.npz")))
    assert main(tiny.train_arguments(data, "mlp")) == 0
    few = ("--images", "6", "--steps", "4", "--out", "run")
    assert main(["reconstruct", "mlp", "--data", data, *few]) == 0
    found = json.loads(Path("run/metrics.json").read_text())["membership"]
    text = Path("run/reconstruct.html").read_text()
    assert 0 <= found["auroc"] <= 1 and 0 < found["p_value"] <= 1
    assert f"AUROC {found['auroc']:.3f}" in text


def answer(verdict, member):
    result = {"verdict": verdict, "p_value": 0.2, "images_each": 500, "target_accuracy": 0.9}
    if member != "an older run":
        result["membership"] = member
    sections = empty_sections()
    fill(sections["leak"], leak_figures(result, {"images": 100, "steps": 300}))
    return answers(sections, {})[2]


@pytest.mark.parametrize(
    ("verdict", "member", "tone"),
    [
        ("no evidence of a leak", {"auroc": 0.999, "p_value": 0.0005}, "bad"),
        ("can't tell", {"auroc": 0.999, "p_value": 0.0005}, "bad"),
        ("no evidence of a leak", {"auroc": 0.55, "p_value": 0.004}, "fair"),
        ("no evidence of a leak", {"auroc": 0.55, "p_value": 0.008}, "good"),
        ("can't tell", {"auroc": 0.5, "p_value": 0.6}, "unknown"),
        ("no evidence of a leak", None, "good"),
        ("no evidence of a leak", "an older run", "good"),
    ],
)
def test_an_audit_answers_that_members_are_told_where_reconstructions_prove_nothing(
    verdict, member, tone
):
    assert answer(verdict, member).tone == tone


def test_an_audit_of_what_leaks_says_so_first():
    assert answer("leaks", {"auroc": 1.0, "p_value": 0.0005}).answer == "Leaks"

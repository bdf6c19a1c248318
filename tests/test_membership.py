"""Telling training images by what training wrote into the first layer."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torchmetrics.functional.classification import binary_auroc

import preimage.jobs.reconstruct
import tiny
from preimage.auditing.answers import answers
from preimage.auditing.reconstructed import leak_figures
from preimage.auditing.record import empty_sections, fill
from preimage.cli import main
from preimage.data import load
from preimage.errors import PreimageError
from preimage.leak.control import pair
from preimage.leak.loss_membership import image_losses, loss_membership
from preimage.leak.membership import membership
from preimage.leak.reconstruction import Reconstruction
from preimage.runtime import stream
from preimage.sources import load_classifier
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


# --- by the loss ----------------------------------------------------------------------------


def test_a_smaller_loss_tells_training_images():
    train, control = torch.tensor([0.1, 0.2, 0.9, 0.3]), torch.tensor([0.5, 0.2, 2.0, 1.0])
    found = loss_membership(train.repeat(10), control.repeat(10))
    # of the 16 pairs three are the wrong way round and one is of equals
    assert found.auroc == pytest.approx((16 - 3 - 0.5) / 16)
    assert found.loss_train == pytest.approx(0.375) and found.loss_control == pytest.approx(0.925)
    assert found.p_value == 1 / 2000
    turned = loss_membership(control.repeat(10), train.repeat(10))
    assert turned.auroc == pytest.approx(1 - found.auroc) and turned.p_value > 0.99


def test_the_area_is_that_of_the_usual_definition():
    train, control = (torch.randn(50, generator=stream(key)).exp() for key in ("one", "other"))
    known = (torch.arange(100) < 50).int()
    expected = binary_auroc(torch.cat([train, control]).neg().sigmoid(), known)
    assert loss_membership(train, control).auroc == pytest.approx(float(expected))


def test_losses_of_one_kind_are_not_told_apart():
    p_values = []
    for trial in range(40):
        both = torch.randn(60, generator=stream("losses", trial)).exp()
        p_values.append(loss_membership(both[:30], both[30:], seed=trial).p_value)
    # uniform where nothing differs
    assert sum(p <= 0.05 for p in p_values) <= 6
    assert 10 <= sum(p > 0.5 for p in p_values) <= 30


def losses_by_class(trial, apart):
    """Ten classes of different losses, ten images of each in both groups, and their labels."""
    labels = (torch.arange(100) % 10).repeat(2)
    both = labels + 0.5 * torch.randn(200, generator=stream("by class", trial))
    both[:100] -= apart
    return both[:100], both[100:], labels


def test_what_differs_from_class_to_class_hides_no_difference():
    train, control, labels = losses_by_class(0, 0.3)
    found = [loss_membership(train, control, labels=known) for known in (labels, None)]
    assert found[0].auroc == found[1].auroc
    assert found[0].p_value <= 0.01 and found[1].p_value > 0.1


@pytest.mark.parametrize("labels", [torch.arange(6), torch.zeros(5)])
def test_labels_that_differ_between_the_groups_are_one_sentence(labels):
    with pytest.raises(PreimageError, match="as many images of each class in both groups"):
        loss_membership(torch.rand(3), torch.rand(3), labels=labels)


def test_divisions_of_each_class_are_none_too_bold():
    p_values = []
    for trial in range(40):
        train, control, labels = losses_by_class(trial, 0.0)
        p_values.append(loss_membership(train, control, trial, labels).p_value)
    # uniform where nothing differs, which those of all images together are not here
    assert sum(p <= 0.05 for p in p_values) <= 6
    assert sum(p <= 0.2 for p in p_values) >= 1 and 10 <= sum(p > 0.5 for p in p_values) <= 30


def test_image_losses_are_told_apart_where_the_classifier_is_all_but_sure():
    """In single precision both of these are 0."""
    losses = image_losses(torch.tensor([[30.0, 0.0], [20.0, 0.0]]), torch.tensor([0, 0]))
    assert losses.tolist() == pytest.approx([math.exp(-30), math.exp(-20)], rel=1e-2)


def test_what_was_learnt_by_heart_has_a_smaller_loss():
    """Noise with random classes: there is nothing else to learn."""
    images = torch.rand(60, 1, 8, 8, generator=stream("noise"))
    labels = torch.randint(0, 3, (60,), generator=stream("classes"))
    network = tiny.fit(tiny.build().train(), lambda _: (images[:30], labels[:30]), 300)
    with torch.no_grad():
        losses = image_losses(network(images), labels)
    found = loss_membership(losses[:30], losses[30:])
    assert found.auroc > 0.9 and found.p_value == 1 / 2000


@pytest.mark.parametrize(
    ("train", "control", "said"),
    [
        (torch.ones(3), torch.ones(4), "as many held-out images as training images"),
        (torch.ones(0), torch.ones(0), "as many held-out images as training images"),
        (torch.ones(3), torch.tensor([1.0, float("nan"), 1.0]), "losses without NaN"),
    ],
)
def test_losses_that_make_no_test_are_one_sentence(train, control, said):
    with pytest.raises(PreimageError, match=said):
        loss_membership(train, control)


def test_every_classifier_has_the_figures_of_its_loss(capsys):
    """A convolutional one, whose first layer tells nothing, and features beside it."""
    data = str(tiny.write_npz(Path("bands.npz")))
    assert main(tiny.train_arguments(data, "cnn", arch="cnn")) == 0
    assert main(tiny.train_arguments(data, "judge")) == 0
    few = ("--images", "6", "--steps", "4", "--out", "run", "--json")
    capsys.readouterr()
    assert main(["reconstruct", "cnn", "--data", data, "--evaluator", "judge", *few]) == 0
    record = json.loads(capsys.readouterr().out)
    told, features = record["membership_loss"], record["by_features"]
    assert record["membership"] is None and record["arch"] == "cnn"
    # from the weights anew, without the command
    classifier = load_classifier("cnn")
    groups = pair(*(load(data, side) for side in ("train", "test")), 2000)
    losses = [
        nn.functional.cross_entropy(classifier(one.floats()).logits, one.labels).item()
        for one in groups[:2]
    ]
    assert [told["loss_train"], told["loss_control"]] == pytest.approx(losses, rel=1e-3)
    page = Path("run/reconstruct.html").read_text()
    assert f"AUROC {told['auroc']:.3f}, p = {told['p_value']:.4f}" in " ".join(page.split())
    # one to one is never nearer than the nearest
    for side in ("train", "control"):
        assert 0 < features[f"matched_{side}"] <= features[f"similarity_{side}"] + 1e-6
        assert f"{features[f'matched_{side}']:.3f}" in page
    assert leak_figures(record, {"images": 6, "steps": 4})["membership_loss_auroc"] == told["auroc"]


class NanForDark(nn.Module):
    """Has no answer for a part of all images."""

    def __init__(self):
        super().__init__()
        self.network = tiny.build()

    def forward(self, images):
        dark = images.mean((1, 2, 3), keepdim=True)[:, :, 0, 0] < 0.335
        return self.network(images).masked_fill(dark, torch.nan)


def test_a_classifier_without_an_answer_for_some_images_has_its_verdict(capsys, monkeypatch):
    data = str(tiny.write_npz(Path("bands.npz")))
    monkeypatch.setattr(tiny, "dark", NanForDark, raising=False)
    searched = Reconstruction(load(data).floats()[:30], load(data).labels[:30])
    monkeypatch.setattr(preimage.jobs.reconstruct, "reconstruct", lambda *_, **__: searched)
    few = ("--images", "30", "--steps", "4", "--out", "run", "--json")
    assert main(["reconstruct", "tiny:dark", *tiny.IMAGE, "--data", data, *few]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert record["membership_loss"] is None and record["p_value"] > 0
    assert "whether the loss tells training images is left open" in " ".join(err.split())


# --- in an audit ----------------------------------------------------------------------------


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

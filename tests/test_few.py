"""Training on a few images, on two classes in place of many, and with defences."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from preimage.cli import main
from preimage.config import Fitting
from preimage.data import load
from preimage.data.portion import few_images, two_classes
from preimage.errors import PreimageError
from preimage.fitting import prepare, privacy_spent
from preimage.sources import load_classifier
from preimage.types import ImageSpec
from preimage.zoo.architectures import build

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture
def data():
    return str(tiny.write_npz("bands.npz", train=120, test=60))


def call(capsys, *arguments):
    capsys.readouterr()
    status = main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    return status, json.loads(out) if status == 0 else None, " ".join(err.split())


def train(capsys, data, *more, out="few"):
    base = ("train", data, "--arch", "mlp", "--width", "16", "--limit", "30", "--out", out)
    return call(capsys, *base, *more)


def rows(images):
    return {bytes(row.numpy().tobytes()) for row in images.images.flatten(1)}


def test_few_images_are_even_disjoint_and_of_the_seed(data):
    images = load(data, "train")
    used, others = few_images(images, 31, seed=0)
    assert len(used) == len(others) == 31
    assert used.labels.bincount().tolist() == [11, 10, 10]
    assert torch.equal(few_images(images, 31, seed=0)[0].images, used.images)
    assert not torch.equal(few_images(images, 31, seed=1)[0].images, used.images)
    assert len(rows(images)) == len(images)  # no image is there twice, so a row is told by it
    assert not rows(used) & rows(others)


@pytest.mark.parametrize(("limit", "said"), [(2, "at least 3"), (10_000, "lower --limit")])
def test_limits_that_cannot_be_are_told(data, limit, said):
    with pytest.raises(PreimageError, match=said):
        few_images(load(data, "train"), limit, 0)


def test_two_classes_keep_images_and_names(data):
    images = load(data, "train")
    found = two_classes(images, [2])
    assert torch.equal(found.labels, (images.labels == 2).long())
    assert found.class_names == ("0 or 1", "2") and torch.equal(found.images, images.images)
    for wrong in ([], [0, 1, 2], [7]):
        with pytest.raises(PreimageError, match="--positive"):
            two_classes(images, wrong)


def test_run_keeps_what_it_was_trained_on_for_reconstruction(capsys, data):
    status, card, _ = train(capsys, data, "--positive", "0", "--epochs", "60", "--lr", "0.02")
    assert status == 0 and card["train_images"] == 30 and card["train_accuracy"] > 0.9
    kept = {split: load("few/images.npz", split) for split in ("train", "test")}
    assert len(kept["train"]) == len(kept["test"]) == 30
    assert rows(kept["train"]) <= rows(load(data, "train"))
    quick = ("--images", "24", "--steps", "10", "--out", "found")
    status, record, _ = call(capsys, "reconstruct", "few", *quick)
    assert status == 0 and record["images_each"] == 30 - record["shared"]
    assert record["classes"] == 2 and record["repeated"] == 0


def test_other_images_than_a_run_of_few_has_seen_are_told(capsys, data):
    train(capsys, data, "--epochs", "2")
    quick = ("--images", "24", "--steps", "2", "--out", "found")
    for more, told in (((), False), (("--data", data), True)):
        *_, said = call(capsys, "reconstruct", "few", *quick, "--overwrite", *more)
        assert ("saw only the images in 'few/images.npz'" in said) == told


def test_training_stops_at_the_loss_and_a_killed_one_goes_on(capsys, data, monkeypatch):
    more = ("--epochs", "400", "--lr", "0.02", "--stop-loss", "0.3")
    _, whole, _ = train(capsys, data, *more, out="whole")
    assert 1 < whole["epochs"] < 400
    log = [json.loads(line) for line in Path("whole/metrics.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] <= 0.3 and all(line["loss"] > 0.3 for line in log[:-1])
    again = train(capsys, data, *more, out="whole")[1]
    assert again == whole
    # fewer epochs would be another schedule, and so another classifier
    _, *said = shlex.split(whole["command"])
    assert said[said.index("--epochs") + 1] == "400"
    assert call(capsys, *said, "--out", "same")[0] == 0
    weights = [Path(folder, "classifier.safetensors").read_bytes() for folder in ("whole", "same")]
    assert weights[0] == weights[1]


def test_first_layer_is_scaled_and_dropout_set():
    torch.manual_seed(0)
    network = build("mlp", ImageSpec(1, 8, 8), 3, 8)
    before = [p.clone() for p in network.parameters()]
    prepare(network, Fitting(first_scale=0.1, dropout=0.25))
    after = list(network.parameters())
    assert torch.allclose(after[0], before[0] * 0.1) and torch.equal(after[2], before[2])
    assert {m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}
    with pytest.raises(PreimageError, match="dropout"):
        prepare(build("resnet", ImageSpec(1, 8, 8), 3, 8), Fitting(dropout=0.5))


def test_label_smoothing_leaves_the_classifier_less_sure(capsys, data):
    sure = {}
    for share in ("0", "0.3"):
        more = ("--epochs", "80", "--lr", "0.02", "--label-smoothing", share)
        train(capsys, data, *more, out=f"s{share}")
        images = load(f"s{share}/images.npz", "train").floats()
        sure[share] = load_classifier(f"s{share}")(images).logits.softmax(1).amax(1).mean()
    assert sure["0.3"] < sure["0"] - 0.05


def test_dp_sgd_tells_its_epsilon_and_repeats(capsys, data):
    pytest.importorskip("opacus")
    more = ("--epochs", "5", "--dp-noise", "1.0")
    status, card, _ = train(capsys, data, *more, out="a")
    assert status == 0 and card["epsilon"] > 0
    assert card["epsilon"] == pytest.approx(
        privacy_spent(Fitting(dp_noise=1.0), 30, 30, 5), rel=0.2
    )
    train(capsys, data, *more, out="b")
    file = "classifier.safetensors"
    assert Path("a", file).read_bytes() == Path("b", file).read_bytes()
    less = privacy_spent(Fitting(dp_noise=4.0), 30, 30, 5)
    assert less < card["epsilon"]


def test_without_opacus_says_what_to_install(capsys, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus", None)
    status, _, err = train(capsys, data, "--dp-noise", "1")
    assert status == 2 and "pip install opacus" in err


def test_dp_sgd_refuses_batch_norm(capsys, data):
    pytest.importorskip("opacus")
    base = ("train", data, "--arch", "resnet", "--width", "8", "--limit", "30", "--dp-noise", "1")
    status, _, err = call(capsys, *base, "--out", "x")
    assert status == 2 and "batch norm" in err


def test_saved_portion_is_exact(data):
    from preimage.data.portion import to_npz

    images = load(data, "train")
    Path("x.npz").write_bytes(to_npz(images, load(data, "test")))
    assert np.array_equal(load("x.npz", "train").images, images.images)

"""Detectors in another folder than they were made in, without what they were made of."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import tiny
from preimage.cli import main
from preimage.ood import Detector
from preimage.ood.detector import DETECTOR_FILE
from preimage.tensors import pack, unpack
from tiny import run

pytestmark = pytest.mark.usefixtures("workplace")
BRIEF = (*tiny.HARDEN[2:], "--epochs", "2")


def harden(data, model, *more):
    """A run folder of this classifier, hardened; and what its detector says of some images."""
    arguments = ["ood", "train", data, "--model", model, "--out", "hard", *BRIEF, *more]
    assert main([str(part) for part in arguments]) == 0
    return Detector.load("hard").predict(some_images())


def some_images():
    return torch.rand(9, 1, 8, 8, generator=torch.Generator().manual_seed(4))


def elsewhere(monkeypatch):
    """Another folder, with nothing in it but the detector's file."""
    Path("away").mkdir()
    shutil.copy(Path("hard") / DETECTOR_FILE, Path("away") / DETECTOR_FILE)
    monkeypatch.chdir("away")


@pytest.mark.parametrize("head", ["extend", "beside"])
def test_a_factorys_detector_needs_no_checkpoint(capsys, shared, monkeypatch, head):
    network = tiny.build()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)  # not what the factory makes
    save_file(network.state_dict(), "weights.safetensors")
    more = ("--checkpoint", "weights.safetensors", *tiny.IMAGE, "--head", head)
    before = harden(shared / "bands.npz", "tiny:build", *more)
    elsewhere(monkeypatch)
    assert torch.equal(Detector.load(DETECTOR_FILE).predict(some_images()), before)
    status, out, err = run(capsys, "ood", "score", DETECTOR_FILE, shared / "other", "--json")
    assert status == 0 and json.loads(out)["images"] == 30, err


@pytest.mark.parametrize("head", ["extend", "beside"])
def test_a_trained_classifiers_detector_needs_no_run_folder(capsys, shared, monkeypatch, head):
    shutil.copytree(shared / "plain", "plain")
    before = harden(shared / "bands.npz", "plain", "--head", head)
    elsewhere(monkeypatch)
    detector = Detector.load(DETECTOR_FILE)
    assert torch.equal(detector.predict(some_images()), before)
    assert detector.class_names == ("0", "1", "2")
    status, out, err = run(
        capsys,
        *("ood", "eval", DETECTOR_FILE, "--id", shared / "bands.npz", "--ood", shared / "other"),
        *("--no-synthetic", "--json"),
    )
    assert status == 0, err
    result = json.loads(out)
    assert {record["method"] for record in result["records"]} == {"preimage"}
    assert result["id_accuracy_plain"] is None and "name it with --plain" in " ".join(err.split())


def test_a_detector_whose_code_is_gone_is_one_sentence(capsys, shared, monkeypatch):
    harden(shared / "bands.npz", "tiny:build", *tiny.IMAGE)
    elsewhere(monkeypatch)
    header, state = unpack(Path(DETECTOR_FILE), "preimage-detector-2", "detector", "")
    recipe = json.loads(header["recipe"])
    recipe["model"]["model"] = "gone_package:build"
    header["recipe"] = json.dumps(recipe)
    Path(DETECTOR_FILE).write_bytes(pack(state, header))
    status, _, err = run(capsys, "ood", "score", DETECTOR_FILE, shared / "other")
    said = " ".join(err.split())
    assert status == 2 and "Traceback" not in err
    assert "expected 'gone_package:build' to build the detector's network by" in said
    assert "found no 'gone_package'" in said


def test_an_older_file_is_the_same_after_it_was_read(shared):
    """What tells a finished evaluation that its detector is still the same is the file's bytes."""
    harden(shared / "bands.npz", "tiny:build", *tiny.IMAGE)
    file = Path("hard") / DETECTOR_FILE
    header, state = unpack(file, "preimage-detector-2", "detector", "")
    model = {"model": "tiny:build", "checkpoint": None, "image": [1, 8, 8], "mean": None}
    model |= {"std": None, "classes": None, "feature_layer": None}
    header["recipe"] = json.dumps({"model": model, "head": "extend", "kind": "model"})
    file.write_bytes(pack(state, header))
    assert Detector.load("hard").to_bytes() == file.read_bytes()


def test_class_names_from_a_file_stay_with_the_detector(capsys, shared, monkeypatch):
    Path("names.txt").write_text("0\n1\n2\n", encoding="utf-8")
    names = ("--class-names", "names.txt")
    before = harden(shared / "bands.npz", "tiny:build", *tiny.IMAGE, *names)
    elsewhere(monkeypatch)
    Path("names.txt").write_text("other\n1\n2\n", encoding="utf-8")
    detector = Detector.load(DETECTOR_FILE)
    assert detector.class_names == ("0", "1", "2")
    assert torch.equal(detector.predict(some_images()), before)
    status, _, err = run(capsys, "ood", "score", DETECTOR_FILE, shared / "other")
    assert status == 0, err


def test_a_network_that_a_factory_gives_out_again_stays_as_it_is(shared, monkeypatch):
    network = tiny.build()
    monkeypatch.setattr(tiny, "build", lambda: network)
    before = copy.deepcopy(network.state_dict())
    harden(shared / "bands.npz", "tiny:build", *tiny.IMAGE)
    Detector.load("hard")
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


def test_first_weights_do_not_matter_to_a_detector(shared, monkeypatch):
    """As they come, a deep or half-precision network may give no finite answer at all."""
    save_file(tiny.build().state_dict(), "weights.safetensors")
    before = harden(
        shared / "bands.npz", "tiny:build", "--checkpoint", "weights.safetensors", *tiny.IMAGE
    )
    built = tiny.build

    def overflowing():
        network = built()
        with torch.no_grad():
            network[1].weight.fill_(3e38)
        return network

    monkeypatch.setattr(tiny, "build", overflowing)
    assert torch.equal(Detector.load("hard").predict(some_images()), before)

"""What a run was made from is told by content, not by name."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import preimage
import preimage.auditing.job
import tiny
from preimage.classifier import Classifier
from preimage.cli import main
from preimage.digest import classifier_digest, tensors_digest
from preimage.settings import check_equal
from preimage.source_code import code_digests
from preimage.sources import load_classifier
from preimage.types import ImageSpec

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Audits without their parts."""

    def nothing(context, *_):
        context.folder.write("part.json", b"{}")
        context.folder.finish({"model": context.classifier.name, "answers": []})

    monkeypatch.setattr(preimage.auditing.job, "_run", nothing)


class Scaled(nn.Module):
    """Has a buffer that no file keeps."""

    def __init__(self, scale):
        super().__init__()
        self.inner = tiny.build()
        self.register_buffer("scale", torch.tensor(scale), persistent=False)

    def forward(self, images):
        return self.inner(images) * self.scale


def digest(network=None, **options):
    return classifier_digest(Classifier(network or tiny.build(), ImageSpec(1, 8, 8), **options))


def test_equal_classifiers_have_one_digest_and_others_another():
    wider = tiny.build()
    with torch.no_grad():
        wider[3].bias[0] += 1e-6
    found = [
        digest(),
        digest(wider),
        digest(tiny.build().bfloat16().float()),
        digest(mean=(0.5,)),
        digest(std=(0.5,)),
        digest(class_names=("a", "b", "c")),
        digest(class_names=("b", "a", "c")),
        digest(feature_layer="1"),
        digest(Scaled(1.0)),
        digest(Scaled(2.0)),
    ]
    assert len(set(found)) == len(found)
    assert digest() == found[0] == digest(tiny.build().to(memory_format=torch.channels_last))


def test_digest_tells_names_types_and_shapes_apart():
    zeros = torch.zeros(4)
    found = [
        tensors_digest([("a", tensor)])
        for tensor in (zeros, zeros.view(2, 2), zeros.int(), zeros.bfloat16(), torch.zeros(()))
    ]
    assert len({*found, tensors_digest([("b", zeros)])}) == 6
    pairs = [("a", zeros), ("b", torch.ones(2, dtype=torch.bool))]
    assert tensors_digest(pairs) == tensors_digest(reversed(pairs))


def refused(capsys, arguments):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("kind", ["invert", "reconstruct", "ood train", "audit"])
def test_run_on_weights_that_changed_since_is_neither_shown_nor_gone_on_with(
    capsys, kind, finished
):
    data = str(tiny.write_npz(Path("bands.npz")))
    train = tiny.train_arguments(data, "mlp")
    few = ("--images", "6", "--steps", "4")
    arguments = {
        "invert": ["invert", "mlp", *tiny.FEW, "--steps", "20", "--no-student", "--no-real"],
        "reconstruct": ["reconstruct", "mlp", "--data", data, *few, "--start", "noise"],
        "ood train": ["ood", "train", data, *tiny.HARDEN[2:], "--model", "mlp"],
        "audit": ["audit", "mlp", "--no-real"],
    }[kind]
    arguments = [*arguments, "--out", "run"]
    assert main(train) == 0 and main(arguments) == 0
    if not finished:
        Path("run/metrics.json").unlink()
    assert main([*train, "--seed", "1", "--overwrite"]) == 0
    said = refused(capsys, arguments)
    assert "found one with other weights, normalisation or class names" in said
    assert "--out" in said and "--overwrite" in said
    assert main([*arguments, "--overwrite"]) == 0


TERM = "from preimage.terms.paper import cross_entropy\n\n\ndef mine(sample):\n    return {}\n"
NET = (
    "import tiny\nfrom torch import nn\n\n\nclass Net(nn.Module):\n"
    "    def __init__(self):\n        super().__init__()\n        self.inner = tiny.build()\n\n"
    "    def forward(self, images):\n        return self.inner(images{})\n"
)


@pytest.fixture
def own(monkeypatch):
    """Write a user's module that is imported anew, as by another process."""
    monkeypatch.syspath_prepend(".")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # its stamp would be of the same second

    def write(name, text):
        Path(f"{name}.py").write_text(text)
        for module in ("own_term", "own_net", "own_model"):
            sys.modules.pop(module, None)
        importlib.invalidate_caches()

    yield write
    for module in ("own_term", "own_net", "own_model"):
        sys.modules.pop(module, None)


@pytest.mark.parametrize("finished", [True, False])
def test_a_term_that_was_edited_since_is_another_run(own, capsys, finished):
    own("own_term", TERM.format("0.1 * cross_entropy(sample)"))
    arguments = tiny.invert_arguments("run", "--terms", "own_term:mine=1")
    assert main(arguments) == 0 and main(arguments) == 0
    if not finished:
        Path("run/metrics.json").unlink()
    own("own_term", TERM.format("0.2 * cross_entropy(sample)"))
    assert "found one with other code of own_term:mine; choose" in refused(capsys, arguments)
    assert main([*arguments, "--overwrite"]) == 0


@pytest.mark.parametrize("kind", ["invert", "audit", "reconstruct", "ood train", "ood eval"])
def test_a_factory_whose_code_was_edited_since_is_another_run(own, capsys, kind):
    data = str(tiny.write_npz(Path("bands.npz")))
    own("own_net", NET.format(""))
    own("own_model", "from own_net import Net\n\n\ndef build():\n    return Net()\n")
    few = ("--images", "6", "--steps", "4", "--start", "noise")
    arguments = {
        "invert": tiny.invert_arguments("run", model="own_model:build"),
        "audit": ["audit", "own_model:build", *tiny.IMAGE, "--no-real"],
        "reconstruct": ["reconstruct", "own_model:build", *tiny.IMAGE, "--data", data, *few],
        "ood train": [*tiny.ood_arguments(data, "run", "--model", "own_model:build"), *tiny.IMAGE],
        "ood eval": ["ood", "eval", "hard", "--id", data, "--most", "30", "--baselines", "msp"],
    }[kind]
    if kind == "ood eval":
        hard = [*tiny.ood_arguments(data, "hard", "--model", "own_model:build"), *tiny.IMAGE]
        assert main(hard) == 0
    arguments = [*arguments, "--out", "run"]
    assert main(arguments) == 0 and main(arguments) == 0
    own("own_net", NET.format(" * 1.5"))  # the same weights
    assert "found one with other code of the classifier" in refused(capsys, arguments)


def test_runs_that_note_no_code_and_code_without_a_file_are_gone_on_with(own):
    own("own_term", TERM.format("cross_entropy(sample)"))
    arguments = tiny.invert_arguments("run", "--terms", "own_term:mine=1")
    assert main(arguments) == 0
    settings = json.loads(Path("run/config.json").read_text())
    assert settings["config"]["code"].keys() == {"own_term:mine", "the classifier", "the evaluator"}
    del settings["config"]["code"]
    Path("run/config.json").write_text(json.dumps(settings))
    assert main(arguments) == 0
    assert code_digests({"builtins:len": len}, classifier=None) == {
        "builtins:len": None,
        "the classifier": None,
    }


def test_the_code_of_networks_of_libraries_and_of_the_program_is_not_compared():
    network = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), ImageSpec(1, 8, 8))
    mine = Classifier(Scaled(1.0), ImageSpec(1, 8, 8))
    found = code_digests(plain=network, own=mine, bundled=load_classifier("mnist"))
    assert found["the plain"] is None is found["the bundled"] and found["the own"] is not None


def test_finished_run_that_notes_no_weights_is_still_read(capsys):
    arguments = tiny.invert_arguments("run")
    assert main(arguments) == 0
    settings = json.loads(Path("run/config.json").read_text())
    del settings["config"]["weights"]
    Path("run/config.json").write_text(json.dumps(settings))
    assert main(["show", "run"]) == 0
    assert main(["sample", "run", "--count", "3"]) == 0
    assert "found one with no note of the classifier's weights" in refused(capsys, arguments)


def test_audit_of_a_network_with_another_normalisation_is_another_audit():
    network, options = tiny.build(), {"image": (1, 8, 8), "out": "run"}
    preimage.audit(network, mean=(0.0,), std=(1.0,), **options)
    with pytest.raises(preimage.PreimageError, match="other weights, normalisation"):
        preimage.audit(network, mean=(0.5,), std=(0.25,), **options)


def test_data_that_changed_since_are_not_answered_for(tmp_path, capsys):
    data = tiny.write_npz(tmp_path / "set.npz")
    assert main(tiny.train_arguments(data, "run")) == 0
    assert main(tiny.train_arguments(data, "run")) == 0
    tiny.write_npz(data, train=90)
    assert "found one with other training images under the name" in refused(
        capsys, tiny.train_arguments(data, "run")
    )


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        ({"test": "abc"}, {"test": None}, None),  # what came of it can be read without the data
        ({}, {"test": "abc"}, None),  # a run of before
        ({"test": None}, {"test": None}, None),
        ({"test": None}, {"test": "abc"}, "no test images"),
        ({"--ood ./a.b": "abc"}, {"--ood ./a.b": "def"}, "other --ood ./a.b images"),
    ],
)
def test_a_run_without_images_that_are_there_now_is_another(there, here, said):
    pair = [{"kind": "audit", "config": {"images": images}} for images in (there, here)]
    if said is None:
        check_equal(*pair, Path("run"))
        return
    with pytest.raises(preimage.PreimageError, match=said):
        check_equal(*pair, Path("run"))


def test_a_run_in_other_numbers_is_another(capsys):
    assert main(tiny.invert_arguments("run", "--precision", "32-true")) == 0
    assert "precision" in refused(capsys, tiny.invert_arguments("run", "--precision", "bf16-mixed"))


def test_an_evaluation_is_of_the_detector_as_it_is_now(tmp_path, capsys):
    data = str(tiny.write_npz(tmp_path / "set.npz", train=240, test=90))
    evaluate = ["ood", "eval", "hard", "--id", data, "--most", "30", "--out", "eval"]
    assert main(tiny.ood_arguments(data, "hard")) == 0
    assert main(evaluate) == 0
    assert main(evaluate) == 0
    assert main(tiny.ood_arguments(data, "hard", "--tpr", "0.5", "--overwrite")) == 0
    assert "found one with other weights" in refused(capsys, evaluate)


def test_an_evaluation_is_of_the_unknown_images_as_they_are_now(tmp_path, capsys):
    data = str(tiny.write_npz(tmp_path / "set.npz", train=240, test=90))
    other = tmp_path / "other.npz"
    np.savez(other, images=tiny.bands(45, seed=2)[0])
    assert main(tiny.train_arguments(data, "plain")) == 0
    evaluate = ["ood", "eval", "plain", "--id", data, "--ood", str(other), "--no-synthetic"]
    evaluate += ["--baselines", "msp", "--out", "eval"]
    assert main(evaluate) == 0
    assert main(evaluate) == 0
    np.savez(other, images=tiny.bands(60, seed=2)[0])
    assert f"found one with other --ood {other} images" in refused(capsys, evaluate)


@pytest.mark.parametrize("kind", ["invert", "audit"])
def test_a_run_judged_by_another_evaluator_of_one_name_is_another(tmp_path, capsys, kind):
    data = tiny.write_npz(tmp_path / "set.npz")
    judge = tiny.train_arguments(data, "judge")
    arguments = {
        "invert": tiny.invert_arguments("run", "--evaluator", "judge"),
        "audit": ["audit", "tiny:build", *tiny.IMAGE, "--no-real", "--evaluator", "judge"],
    }[kind]
    arguments = [*arguments, "--out", "run"]
    assert main(judge) == 0 and main(arguments) == 0
    assert main(arguments) == 0
    assert main([*judge, "--seed", "1", "--overwrite"]) == 0
    assert "found one with other weights, normalisation or class names of the evaluator" in refused(
        capsys, arguments
    )

"""What a run was made from is told by content, not by name."""

from __future__ import annotations

import json
from pathlib import Path

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
        "ood train": ["ood", "train", data, *tiny.HARDEN, "--model", "mlp"],
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
    other = tiny.write_npz(tmp_path / "other.npz", train=60, test=45)
    assert main(tiny.train_arguments(data, "plain")) == 0
    evaluate = ["ood", "eval", "plain", "--id", data, "--ood", str(other), "--no-synthetic"]
    evaluate += ["--baselines", "msp", "--out", "eval"]
    assert main(evaluate) == 0
    assert main(evaluate) == 0
    tiny.write_npz(other, train=60, test=60)
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

"""Whatever is wrong with the input: one sentence, status 2, and nothing lost that was there."""

from __future__ import annotations

import errno
import json
import os
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import tiny
from preimage.cli import main

pytestmark = pytest.mark.usefixtures("workplace")

SENTENCE = 500
"""Characters at most: what is longer is not one sentence to read."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Made once and only read: a finished inversion `run`, data, and a trained `mlp`."""
    folder = tmp_path_factory.mktemp("shared")
    tiny.write_npz(folder / "bands.npz")
    assert main(tiny.invert_arguments(folder / "run")) == 0
    assert main(tiny.train_arguments(folder / "bands.npz", folder / "mlp")) == 0
    return folder


@pytest.fixture
def refused(capsys):
    """Give a command that must be refused; its one sentence comes back."""

    def refuse(*arguments):
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        lines = captured.err.strip().splitlines()
        assert status == 2, captured.err
        assert captured.out == "" and "Traceback" not in captured.err
        assert lines[-1].startswith("error: ")
        assert sum(line.startswith("error:") for line in lines) == 1
        sentence = lines[-1].removeprefix("error: ")
        assert 20 < len(sentence) < SENTENCE
        return sentence

    return refuse


def inversion(*more, model="tiny:build"):
    return tiny.invert_arguments("run", *more, model=model)


def contents(folder):
    return {file: file.read_bytes() for file in Path(folder).rglob("*") if file.is_file()}


# ---- the model


class Code:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("code-was-run",))


def test_checkpoint_that_does_not_fit(refused):
    save_file({"1.weight": torch.zeros(16, 9), "0.extra": torch.zeros(1)}, "w.safetensors")
    sentence = refused(*inversion("--checkpoint", "w.safetensors"))
    assert "3 missing" in sentence and "1 unknown" in sentence and "1 misshapen" in sentence
    assert not Path("run").exists()


def test_checkpoint_with_code_in_it_is_never_run(refused):
    for name, save in (("a.pt", torch.save), ("b.pkl", dump)):
        save({"1.weight": Code()}, name)
        assert "never run" in refused(*inversion("--checkpoint", name))
    assert not Path("code-was-run").exists()


def dump(value, name):
    Path(name).write_bytes(pickle.dumps(value))


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_checkpoint_that_is_missing_or_damaged(refused, name):
    assert "found none" in refused(*inversion("--checkpoint", name))
    Path(name).write_bytes(b"\x00garbage" * 9)
    assert f"'{name}'" in refused(*inversion("--checkpoint", name))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("tiny:map_of_logits", "(2, 3, 8, 8)"),
        ("tiny:nan_weights", "NaN or infinity in the weight '1.weight'"),
        ("tiny:one_class", "at least 2 classes, found 1"),
        ("tiny:broken", "RuntimeError: first line second line"),
        ("tiny:CLASSES", "to build a network"),
        ("tiny:fail_once", "to build a network"),
        ("tiny:nothing", "expected 'nothing' in the module 'tiny'"),
        ("no_such_module:build", "no 'no_such_module'"),
        ("mnits", "did you mean 'mnist'"),
        ("tiny", "package.module:factory"),
        ("missing.pt2", "missing.pt2"),
    ],
)
def test_model_that_cannot_be_inverted(refused, model, words):
    assert words in refused(*inversion(model=model))
    assert not Path("run").exists()


@pytest.mark.parametrize("name", ["./tiny.py", "../w/tiny", "/w/tiny", "tiny.py"])
def test_module_that_is_named_as_a_file(refused, name):
    assert f"the file name '{name}'" in refused(*inversion(model=f"{name}:build"))
    assert f"the file name '{name}'" in refused(*inversion("--terms", f"{name}:term=1"))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def build(:", "SyntaxError: invalid syntax"),
        ("from tiny import nothing_of_it", "ImportError: cannot import name"),
        ("import no_such_package_x", "found no 'no_such_package_x'"),
        ("tiny = 1 / 0", "ZeroDivisionError: division by zero"),
        ("None.weights", "AttributeError: 'NoneType'"),
        ("import sys; sys.exit(1)", "SystemExit: 1"),
    ],
)
def test_module_whose_own_code_fails(refused, code, words):
    name = f"failing_{zlib.crc32(code.encode())}"  # of its own: Python keeps what was imported
    Path(f"{name}.py").write_text(code)
    assert words in refused(*inversion(model=f"{name}:build"))


@pytest.mark.parametrize(
    "content", [b"hello world", b"test of weights", b"b1", b"R.", b"\x80\x02}K\x00K", b""]
)
def test_checkpoint_that_is_some_other_file(refused, content):
    Path("notes.txt").write_bytes(content)
    assert "damaged or foreign file" in refused(*inversion("--checkpoint", "notes.txt"))


def test_checkpoint_that_is_no_state_dict(refused):
    for content, words in (
        ([torch.zeros(1)], "found list"),
        ({0: torch.zeros(1)}, "found Tensor under the key 0"),
        ({"epoch": 3}, "found int under the key 'epoch'"),
    ):
        torch.save(content, "w.pt")
        assert words in refused(*inversion("--checkpoint", "w.pt"))


def test_more_memory_than_any_machine_has(refused, shared, monkeypatch):
    for side in ("10000000", "1000000000"):
        sentence = refused("invert", "tiny:build", "--image", "3", side, side)
        assert "expected enough memory" in sentence
    assert "no room for 2400000000000000 bytes" in refused(
        "invert", "tiny:build", "--image", "3", "10000000", "10000000"
    )
    training = tiny.train_arguments(shared / "bands.npz", "run", "--width", "2000000000")
    assert "expected enough memory" in refused(*training)

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has")

    monkeypatch.setattr("preimage.jobs.train.train", full)
    training = tiny.train_arguments(shared / "bands.npz", "run")
    assert "no room for 2.50 GiB" in refused(*training)


def test_other_failures_are_not_taken_for_a_lack_of_memory(shared, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("a defect")

    monkeypatch.setattr("preimage.jobs.train.train", fails)
    with pytest.raises(RuntimeError, match="a defect"):
        main(tiny.train_arguments(shared / "bands.npz", "run"))


def test_wrong_image_shape(refused):
    wrong = ["invert", "tiny:build", *tiny.FEW]
    assert "--image CHANNELS HEIGHT WIDTH" in refused(*wrong)
    assert "--image" in refused(*wrong, "--image", "3", "8", "8")
    assert "8 x 8 pixels, found 4 x 4" in refused(
        "invert", "tiny:of_four_pixels", "--image", "1", "4", "4"
    )
    assert "one a channel, found 2" in refused(*inversion("--mean", "0.1", "0.2"))
    assert "above 0" in refused(*inversion("--std", "0"))
    assert "no --image" in refused("invert", "mnist", "--image", "1", "8", "8")
    assert "feature layer" in refused(*inversion("--feature-layer", "nowhere"))


def test_evaluator_that_is_no_independent_judge(refused, shared):
    mlp = shared / "mlp"
    few = ["invert", mlp, *tiny.FEW, "--out", "run"]
    assert "another architecture" in refused(*few, "--evaluator", mlp)
    assert "an evaluator of 3 classes" in refused(*few, "--evaluator", "mnist")
    assert not Path("run").exists()


# ---- settings


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--conditioning", "vectr"], "vector-matrix or package.module:Class, found 'vectr'"),
        (["--batch", "1"], "--batch of at least 2, found 1"),
        (["--steps", "0"], "--steps of at least 1, found 0"),
        (["--check-every", "0"], "--check-every of at least 1"),
        (["--dropout", "1"], "--dropout from 0 to 0.99, found 1.0"),
        (["--samples", "0"], "--samples of at least 1"),
        (["--student-steps", "0"], "--student-steps of at least 1"),
        (["--lr", "nan"], "--lr above 0, found nan"),
        (["--latent", "-1"], "--latent of at least 1, found -1"),
        (["--seed", str(2**63)], "--seed from"),
        (["--terms", "cosine"], "NAME=WEIGHT"),
        (["--terms", "tiny:nothing=1"], "expected 'nothing'"),
        (["--terms", "cosin=1"], "loss term out of"),
        (["--alpha", "-1"], "at least 0"),
        (["--alpha", "0", "--beta", "0", "--gamma", "0", "--delta", "0"], "at least one loss"),
        (["--devices", "0"], "at least 1 device"),
        (["--batch", "9" * 400], "--batch from 2 to 2147483647, found 999"),
        (["--width", str(10**26)], "--width from 1 to 2147483647, found 1000"),
        (["--precision", "16-mixed"], "a GPU for --precision 16-mixed"),
    ],
)
def test_setting_that_makes_no_sense(refused, capsys, arguments, words):
    assert words in refused(*inversion(*arguments))
    # and the folder is not lost to the command as it was meant
    assert main(inversion()) == 0


def test_class_that_does_not_exist(refused, shared):
    for label in ("99", "3", "-1"):
        sentence = refused("sample", shared / "run", "--label", "0", label)
        assert f"from 0 to 2, found {label}" in sentence
    assert not Path("samples.png").exists()


def test_sample_of_nothing_or_to_nowhere(refused, shared):
    before = contents(shared / "run")
    assert "found none that can be read" in refused("sample", "nothing")
    assert "found none that can be read" in refused("sample", shared / "mlp")
    assert "format preimage-generator-2" in refused(
        "sample", shared / "mlp" / "classifier.safetensors"
    )
    assert ".png or .npz" in refused("sample", shared / "run", "--out", "x.jpg")
    for count, words in (
        (0, "--count of at least 1, found 0"),
        (10**400, "--count from 1 to 2147483647"),
        (2**31 - 1, "lower --count to"),
    ):
        assert words in refused("sample", shared / "run", "--count", count)
    Path("file").write_text("mine")
    assert "expected a folder for 'file'" in refused(
        "sample", shared / "run", "--out", "file/x.png"
    )
    assert Path("file").read_text() == "mine" and contents(shared / "run") == before


def test_show_of_nothing(refused):
    assert "did you mean 'mnist'" in refused("show", "mnits")
    Path("empty").mkdir()
    assert "expected a run folder" in refused("show", "empty")
    assert "File name too long" in refused("show", "x" * 300)


# ---- data


def test_data_that_is_not_there(refused, shared):
    assert "did you mean mnist" in refused("train", "mnits")
    assert "did you mean mnist" in refused("invert", shared / "mlp", "--data", "mnits")
    assert not Path("runs").exists()


def test_empty_or_corrupt_folder_of_images(refused):
    Path("empty").mkdir()
    assert "empty" in refused("train", "empty")
    for name in ("a", "b"):
        Path("broken", name).mkdir(parents=True)
        Path("broken", name, "1.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    assert "broken" in refused("train", "broken")
    Path("torn.npz").write_bytes(b"PK\x03\x04 torn")
    assert "torn.npz" in refused("train", "torn.npz")
    assert not Path("runs").exists()


def test_data_of_one_class(refused):
    images, _ = tiny.bands(10)
    np.savez("one.npz", images=images, labels=np.zeros(10, dtype=np.int64))
    assert "two classes" in refused("train", "one.npz")
    Path("one", "only").mkdir(parents=True)
    Image.fromarray(images[0]).save("one/only/1.png")
    assert "two" in refused("train", "one")


def test_images_that_are_too_small(refused):
    images, labels = tiny.bands(10)
    np.savez("small.npz", images=images[:, :4, :4], labels=labels)
    assert "8x8" in refused("train", "small.npz")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "0"], "--epochs of at least 1, found 0"),
        (["--batch", "0"], "--batch of at least 2, found 0"),
        (["--width", "0"], "--width of at least 1, found 0"),
        (["--lr", "-1"], "--lr above 0, found -1.0"),
        (["--shift", "-1"], "--shift of at least 0, found -1"),
        (["--lr", "1e30"], "--lr"),
        (["--shift", str(10**30)], "--shift from 0 to 2147483647"),
        (["--width", str(2**31 - 1)], "expected enough memory"),
        (["--devices", "2"], "--devices"),
    ],
)
def test_training_that_makes_no_sense(refused, shared, arguments, words):
    command = tiny.train_arguments(shared / "bands.npz", "run", *arguments)
    assert words in refused(*command)


# ---- the run folder


def test_folder_that_cannot_be_one(refused):
    Path("file").write_text("mine")
    for out in ("file", "file/below"):
        arguments = tiny.invert_arguments(out)
        assert "expected a folder for" in refused(*arguments)
    assert Path("file").read_text() == "mine"
    Path("theirs").mkdir()
    Path("theirs/thesis.tex").write_text("mine")
    assert "thesis.tex" in refused(*tiny.invert_arguments("theirs"))
    assert "thesis.tex" in refused(*tiny.invert_arguments("theirs", "--overwrite"))
    assert [file.name for file in Path("theirs").iterdir()] == ["thesis.tex"]


def test_folder_of_another_run_or_version(refused, shared):
    before = contents(shared)
    run, data = shared / "run", shared / "bands.npz"
    assert "seed 0 instead of 5" in refused(*tiny.invert_arguments(run, "--seed", "5"))
    assert "run of `preimage train`" in refused(*tiny.train_arguments(data, run))
    assert contents(shared) == before
    Path("old").mkdir()
    Path("old/config.json").write_text(json.dumps({"format": 999, "kind": "x", "config": {}}))
    old = contents("old")
    for command in (tiny.invert_arguments("old"), ["show", "old"]):
        assert "found version 999" in refused(*command)
    assert contents("old").items() >= old.items()


def test_full_disk_loses_nothing_that_was_there(refused, monkeypatch, capsys):
    assert main(inversion()) == 0
    Path("run/metrics.json").unlink()
    before = contents("run")
    with monkeypatch.context() as context:
        tiny.fail_once(context, "fsync", 1, errno.ENOSPC)
        assert "room on the disk" in refused(*inversion())
    assert contents("run") == before
    assert main(inversion()) == 0


def test_folder_that_another_process_is_in(refused):
    from preimage.run import RunFolder

    with RunFolder.create("run", "invert", {}):
        assert "another process" in refused(*inversion())


# ---- while it runs


def test_nan_half_way_leaves_a_generator_to_sample(refused, monkeypatch, capsys):
    monkeypatch.setattr(tiny, "nan_half_way", tiny.NanAfter())
    command = inversion("--terms", "tiny:nan_half_way=1")
    sentence = refused(*command)
    assert "a loss of nan at step" in sentence and "--lr" in sentence
    log = [json.loads(line)["step"] for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert 5 <= max(log) < 20
    assert not Path("run/metrics.json").exists()
    assert main(["sample", "run", "--count", "6", "--out", "kept.npz"]) == 0
    with np.load("kept.npz") as archive:
        assert archive["images"].std() > 0
    capsys.readouterr()
    assert main(["show", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unfinished after"] == max(log)
    monkeypatch.setattr(tiny.nan_half_way, "last_good", 10_000)
    assert main(command) == 0
    assert json.loads(Path("run/metrics.json").read_text())["steps"] == 20

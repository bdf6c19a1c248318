"""The command line from end to end, on networks that take a second."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import preimage
import preimage.jobs.invert
import tiny
from preimage.auditing import acceptance, evidence
from preimage.cli import main
from preimage.terminal import Terminal

pytestmark = pytest.mark.usefixtures("workplace")

COMMANDS = ("train", "invert", "audit", "compare", "sample", "show", "demo")
FIGURES = {
    *("inversion_accuracy", "evaluator_accuracy", "confidence", "student_accuracy"),
    *("vendi_pixel", "vendi_pixel_real", "vendi_feature", "vendi_feature_real"),
    *("precision", "coverage"),
}
FIELDS = {*FIGURES, "dataset", "preset", "conditioning", "dropout", "seed", "seconds", "hardware"}
COLOUR = re.compile(r"\x1b\[[\d;]*3\d")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run folder of a finished inversion, made once; for reading only."""
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main(tiny.invert_arguments(out)) == 0
    return out


def call(capsys, *arguments):
    """Standard output of a command that succeeds."""
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return captured.out


def program(*arguments, **environment):
    return subprocess.run(
        [tiny.PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


# ---- help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    out = capsys.readouterr().out
    assert caught.value.code == 0
    assert f"For example:\n  preimage {command}" in out
    assert "--json" in out


def test_help_is_quick_and_imports_no_torch():
    check = (
        "import sys, preimage.cli\n"
        "try:\n    preimage.cli.main(['--help'])\n"
        "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr
    assert all(command in done.stdout for command in COMMANDS)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert program("--help").returncode == 0
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 2


@pytest.mark.parametrize("arguments", [["nonsense"], ["invert"], ["invert", "mnist", "--nope"]])
def test_wrong_usage_ends_in_status_two(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    captured = capsys.readouterr()
    assert caught.value.code == 2
    assert captured.out == "" and "--help" in captured.err


# ---- invert


def test_json_is_one_object_with_every_field_and_again_the_same(run, capsys):
    first = call(capsys, *tiny.invert_arguments("one", "--json"))
    assert first.count("\n") == 1
    record = json.loads(first)
    assert record.keys() >= FIELDS
    assert (record["preset"], record["conditioning"]) == ("paper", "vector-matrix")
    assert (record["seed"], record["dropout"], record["steps"]) == (0, 0.3, 20)
    assert record["dataset"] is None and record["student_accuracy"] is None
    assert 0 <= record["inversion_accuracy"] <= 1 <= record["vendi_pixel"]
    assert Path(record["page"]).is_file() and Path(record["folder"]) == Path("one")
    again = json.loads(call(capsys, *tiny.invert_arguments("two", "--json")))
    changing = ("seconds", "folder", "page")
    assert {k: v for k, v in again.items() if k not in changing} == {
        k: v for k, v in record.items() if k not in changing
    }
    assert Path("one/generator.safetensors").read_bytes() == (
        Path("two/generator.safetensors").read_bytes()
    )
    assert json.loads(Path("one/metrics.json").read_text()).keys() >= FIELDS


def test_another_seed_gives_other_figures(run, capsys):
    other = json.loads(call(capsys, *tiny.invert_arguments("other", "--json", "--seed", "1")))
    known = json.loads((run / "metrics.json").read_text())
    assert other["seed"] == 1
    assert other["vendi_pixel"] != known["vendi_pixel"]


def test_finished_run_gives_its_result_at_once(run, monkeypatch, capsys):
    def fail(*_, **__):
        raise AssertionError("it worked again")

    before = {file: file.stat().st_mtime_ns for file in run.iterdir() if file.name[0] != "."}
    for work in ("invert", "evaluate", "gallery"):
        monkeypatch.setattr(preimage.jobs.invert, work, fail)
    result = json.loads(call(capsys, *tiny.invert_arguments(run, "--json")))
    known = json.loads((run / "metrics.json").read_text())
    assert {k: v for k, v in result.items() if k not in ("folder", "page")} == known
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_overwrite_begins_anew_and_leaves_other_files(capsys):
    call(capsys, *tiny.invert_arguments("run"))
    Path("run/notes.txt").write_text("mine")
    out = call(capsys, *tiny.invert_arguments("run", "--overwrite", "--json", "--seed", "3"))
    assert json.loads(out)["seed"] == 3
    assert Path("run/notes.txt").read_text() == "mine"


def test_run_folder_is_named_after_the_settings(capsys):
    arguments = tiny.invert_arguments("x", "--conditioning", "label", "--seed", "5", "--json")
    del arguments[arguments.index("--out") : arguments.index("--out") + 2]
    folder = json.loads(call(capsys, *arguments))["folder"]
    assert folder == "runs/invert-tiny-build-paper-label-5"
    assert Path(folder, "config.json").is_file()


def test_program_inverts_a_model_of_the_working_folder():
    """As users run it: a process of its own, and a network in a file beside them."""
    Path("mine.py").write_text(Path(tiny.__file__).read_text())
    done = program(*tiny.invert_arguments("run", "--json", model="mine:build"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout).keys() >= FIELDS
    assert "\x1b" not in done.stdout + done.stderr
    assert "steps 20/20" in done.stderr and "note:" in done.stderr
    recorded = json.loads(Path("run/environment.json").read_text())
    assert recorded["command"].startswith("preimage invert mine:build")
    assert str(tiny.PROGRAM.parent) not in recorded["command"]


# ---- what people see


def test_names_that_the_code_page_lacks_are_escaped():
    arguments = tiny.invert_arguments("run", "--no-student", "--class-names", "Łoś,b,c", steps=5)
    assert main(arguments) == 0
    code_page = {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    shown = program("show", "run", "--json", **code_page)
    assert json.loads(shown.stdout)["model"]["class_names"] == "Łoś,b,c", shown.stderr
    table = program("show", "run", **code_page)
    assert table.returncode == 0 and r"\u0141o\u015b,b,c" in table.stdout, table.stderr


def test_output_is_plain_where_there_is_no_terminal(run, capsys, monkeypatch):
    for arguments in (["show", str(run)], ["show", "mnist"]):
        assert "\x1b" not in call(capsys, *arguments)
    assert main(["show", "nothing"]) == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("no_color", [False, True])
def test_no_color_is_respected_on_a_terminal(no_color, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    assert main(["show", "nothing"]) == 2
    error = capsys.readouterr().err
    assert bool(COLOUR.search(error)) is not no_color
    assert "error:" in error


def test_table_names_every_figure(run, capsys):
    out = call(capsys, *tiny.invert_arguments(run))
    for name in FIGURES:
        assert name.replace("_", " ") in out
    accuracy = json.loads((run / "metrics.json").read_text())["inversion_accuracy"]
    assert f"{accuracy:.4g}" in out
    assert "gallery.html" in out


def test_show_tells_of_runs_and_of_bundled_classifiers(run, capsys):
    shown = json.loads(call(capsys, "show", run, "--json"))
    assert shown["run"] == "invert" and shown["config"]["steps"] == 20
    assert shown["result"] == json.loads((run / "metrics.json").read_text())
    card = json.loads(call(capsys, "show", "mnist", "--json"))
    assert card["dataset"] == "mnist" and 0.9 < card["test_accuracy"] <= 1
    assert "mnist" in call(capsys, "show", "mnist")


def test_show_tells_how_far_an_unfinished_run_is(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(preimage.jobs.invert, "evaluate", interrupted)
        assert main(tiny.invert_arguments("run")) == 130
    assert "go on" in capsys.readouterr().err
    assert json.loads(call(capsys, "show", "run", "--json"))["unfinished after"] == 20
    assert "unfinished after" in call(capsys, "show", "run")


# ---- sample


def test_version_is_told(capsys):
    assert call(capsys, "--version") == f"preimage {preimage.__version__}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+", preimage.__version__)


def test_a_home_folder_is_meant_behind_an_equals_sign_too(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    call(capsys, "sample", run, "--count", 3, "--out=~/below/x.png")
    assert Path(tmp_path, "below", "x.png").is_file() and not Path("~").exists()


def test_sample_writes_a_grid(run, capsys):
    call(capsys, "sample", run, "--count", "9", "--out", "grid.png")
    scale = 56 // tiny.SIDE
    side = 3 * (scale * tiny.SIDE + 2) - 2
    assert Image.open("grid.png").size == (side, side)
    first = Path("grid.png").read_bytes()
    call(capsys, "sample", run / "generator.safetensors", "--count", "9", "--out", "again.png")
    assert Path("again.png").read_bytes() == first
    call(capsys, "sample", run, "--count", "9", "--out", "other.png", "--seed", "1")
    assert Path("other.png").read_bytes() != first


def test_sample_writes_an_archive_of_the_labels_asked_for(run, capsys):
    out = call(capsys, "sample", run, "--count", "7", "--out", "new/all.npz", "--json")
    assert json.loads(out) == {"images": 7, "classes": 3, "out": "new/all.npz"}
    with np.load("new/all.npz") as archive:
        assert archive["labels"].tolist() == [0, 0, 0, 1, 1, 2, 2]
        assert archive["images"].shape == (7, 1, tiny.SIDE, tiny.SIDE)
        assert archive["images"].dtype == np.uint8 and archive["images"].std() > 0
    call(capsys, "sample", run, "--label", "2", "0", "--count", "4", "--out", "two.npz")
    with np.load("two.npz") as archive:
        assert archive["labels"].tolist() == [0, 0, 2, 2]


def test_sample_writes_a_folder_that_holds_the_archives_images(run, capsys):
    call(capsys, "sample", run, "--count", "5", "--out", "folder")
    call(capsys, "sample", run, "--count", "5", "--out", "same.npz")
    files = sorted(Path("folder").rglob("*.png"))
    assert [file.parent.name for file in files] == ["0", "0", "1", "1", "2"]
    with np.load("same.npz") as archive:
        for file, image in zip(files, archive["images"], strict=True):
            shown = np.array(Image.open(io.BytesIO(file.read_bytes())))
            assert np.array_equal(shown, image[0])


# ---- train and demo


def test_the_command_on_a_card_trains_the_same_classifier(capsys):
    data = tiny.write_npz(Path("few bands.npz"))
    settings = ("--arch", "mlp", "--width", "8", "--epochs", "3", "--lr", "0.01", "--flip", "True")
    few = ("--limit", "30", "--positive", "0", "2", "--first-scale", "0.1", "--dropout", "0.2")
    precise = ("--precision", "bf16-mixed")
    given = ["train", data, *settings, *few, *precise, "--seed", "3"]
    card = json.loads(call(capsys, *given, "--out", "one", "--json"))
    _, *said = shlex.split(card["command"])
    assert json.loads(call(capsys, *said, "--out", "other", "--json")) == card | {"folder": "other"}
    weights = [Path(folder, "classifier.safetensors").read_bytes() for folder in ("one", "other")]
    assert weights[0] == weights[1]


def test_trained_classifier_has_its_card_and_is_inverted(capsys):
    data = tiny.write_npz(Path("bands.npz"))
    card = json.loads(call(capsys, *tiny.train_arguments(data, "runs/mlp", "--json")))
    assert card["folder"] == "runs/mlp" and card["image"] == [1, tiny.SIDE, tiny.SIDE]
    assert card["test_accuracy"] > 0.5 and card["train_images"] == 120
    again = json.loads(call(capsys, *tiny.train_arguments(data, "runs/mlp", "--json")))
    assert again == card
    arguments = ["--steps", "20", "--out", "inverted", "--json", "--no-student"]
    out = call(capsys, "invert", "runs/mlp", *tiny.FEW, "--data", data, *arguments)
    record = json.loads(out)
    assert record["dataset"] == "bands.npz" and record["vendi_pixel_real"] > 1
    assert record["precision"] is None  # there is no evaluator to judge by
    call(capsys, *tiny.train_arguments(data, "runs/other"))
    classifier = "classifier.safetensors"
    assert Path("runs/other", classifier).read_bytes() == Path("runs/mlp", classifier).read_bytes()


def test_the_folder_of_a_training_has_a_name_that_every_system_takes(capsys):
    data = tiny.write_npz(Path("set:config.npz"))  # as hub sets are called
    for arguments, folder in (
        (tiny.train_arguments(data, "x"), "runs/train-set-config-mlp-0"),
        (tiny.ood_arguments(data, "x"), "runs/ood-set-config-cnn-0"),
    ):
        del arguments[arguments.index("--out") : arguments.index("--out") + 2]
        assert json.loads(call(capsys, *arguments, "--json"))["folder"] == folder


def test_folders_of_images_are_trained_on(capsys):
    images, labels = tiny.bands(30)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        file = Path("pictures", "abc"[label], f"{i}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    assert main(tiny.train_arguments("pictures", "run", "--json")) == 0
    captured = capsys.readouterr()
    card = json.loads(captured.out)
    assert "note: pictures has no splits" in captured.err
    assert "Warning" not in captured.err
    assert card["class_names"] == ["a", "b", "c"] and card["test_accuracy"] is None
    assert card["dataset"] == "pictures"


def test_named_classes_are_matched_with_folders_in_another_order(capsys):
    images, labels = tiny.bands(30)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        file = Path("pictures", ("top", "middle", "bottom")[label], f"{i}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    arguments = tiny.invert_arguments("run", "--data", "pictures", "--no-student", steps=5)
    assert main([*arguments, "--class-names", "top,middle,bottom"]) == 0
    assert "'bottom' as class 0 instead of 2" in " ".join(capsys.readouterr().err.split())
    assert "middle" in Path("run/gallery.html").read_text()
    assert main([*arguments, "--class-names", "top,middle,centre", "--overwrite"]) == 2
    assert "name all classes alike" in " ".join(capsys.readouterr().err.split())
    assert main([*arguments, "--class-names", "top,middle", "--overwrite"]) == 2
    assert "expected 3 different class names" in " ".join(capsys.readouterr().err.split())


def test_demo_leaves_a_page_and_looks_for_no_data(monkeypatch, capsys):
    # a machine so slow that there is no time for an inversion, which the demo makes all the same
    monkeypatch.setattr("preimage.auditing.context.inversion_seconds", lambda *_: 1e4)
    monkeypatch.setattr(acceptance, "_FEW", 200)
    monkeypatch.setattr(evidence, "_pairs", lambda *_: [(0, 1)])
    monkeypatch.setattr(evidence, "_unit_count", lambda *_: 1)
    record = json.loads(call(capsys, "demo", "--json"))
    assert Path(record["page"]) == Path("runs/demo/audit.html")
    page = Path(record["page"]).read_text()
    assert page.count("<img") > 10 * 12 and record["accept"]["steps"] == 60
    assert record["model"] == "mnist" and record["data"] is None
    assert record["accept"]["evaluator_accuracy"] is not None
    assert record["accept"]["vendi_pixel_real"] is None and record["leak"]["verdict"] is None
    monkeypatch.setattr("preimage.auditing.job._run", None)  # nothing is done twice
    assert json.loads(call(capsys, "demo", "--json")) == record


def test_demo_leaves_a_run_of_another_kind_alone(monkeypatch, capsys):
    data = tiny.write_npz(Path("bands.npz"))
    call(capsys, *tiny.train_arguments(data, "mine"))
    weights = Path("mine/classifier.safetensors").read_bytes()
    assert main(["demo", "--out", "mine"]) == 2
    assert "found one of `preimage train`" in " ".join(capsys.readouterr().err.split())
    assert Path("mine/classifier.safetensors").read_bytes() == weights
    replaced = []
    monkeypatch.setattr(
        "preimage.auditing.job._run",
        lambda context, *_: replaced.append(context.folder.finish({"model": "", "answers": []})),
    )
    call(capsys, "demo", "--out", "mine", "--overwrite")
    assert replaced and not Path("mine/classifier.safetensors").exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("command", ["invert", "demo"])
def test_advice_after_an_interruption_keeps_what_is_done(monkeypatch, capsys, command, overwrite):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("preimage.jobs.invert.load_classifier", interrupted)
    monkeypatch.setattr("preimage.auditing.job.load_classifier", interrupted)
    arguments = tiny.invert_arguments("run") if command == "invert" else ["demo"]
    assert main([*arguments, *["--overwrite"] * overwrite]) == 130
    said = " ".join(capsys.readouterr().err.split())
    without = " without --overwrite" if overwrite else ""
    assert f"give the same command again{without} to go on" in said


@pytest.mark.parametrize("command", [["compare", "a", "b"], ["ood", "eval", "a"]])
def test_a_command_without_a_state_does_not_promise_to_go_on(monkeypatch, capsys, command):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("preimage.auditing.compare.read_audit", interrupted)
    monkeypatch.setattr("preimage.jobs.ood_eval.ood_eval_job", interrupted)
    assert main(command) == 130
    said = " ".join(capsys.readouterr().err.split())
    assert "go on" not in said and "give the same command again to do it from the start" in said


def test_what_a_users_code_prints_stays_out_of_json(tmp_path, monkeypatch, capsys):
    (tmp_path / "talking.py").write_text(
        "import tiny\n\ndef build():\n    print('loading ...')\n    return tiny.build()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    result = json.loads(
        call(capsys, *tiny.invert_arguments("run", "--json", model="talking:build"))
    )
    assert result["preset"] == "paper"


def test_train_converts_images_of_several_sizes(tmp_path, capsys):
    for split, sizes in (("train", (9, 12, 14, 16)), ("test", (10, 11))):
        for kind in ("a", "b"):
            folder = tmp_path / "set" / split / kind
            folder.mkdir(parents=True)
            for size in sizes:
                Image.new("L", (size, size), 30 if kind == "a" else 200).save(
                    folder / f"{size}.png"
                )
    arguments = tiny.train_arguments(tmp_path / "set", "run")
    assert main(arguments) == 2
    assert "--image" in capsys.readouterr().err
    card = json.loads(call(capsys, *arguments, *tiny.IMAGE, "--json"))
    assert card["image"] == [1, 8, 8] and "--image 1 8 8" in card["command"]
    assert card["test_accuracy"] is not None
    hard = tiny.ood_arguments(tmp_path / "set", "hard", *tiny.IMAGE, "--valid", "4")
    assert main(hard) == 2  # eight images are too few, but they were read
    assert "images to hold out" in capsys.readouterr().err


def test_names_are_shown_as_they_are(capsys):
    """No part of a path is taken for the name of an emoji."""
    terminal = Terminal()
    terminal.warn("runs/a:100:b is old")
    terminal.table("x:dog:y", {"path": "c:100:d"})
    shown = capsys.readouterr()
    assert "runs/a:100:b" in shown.err and "x:dog:y" in shown.out and "c:100:d" in shown.out

"""Jobs end with the same files however often they were killed, and judge what fits only."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import preimage.inversion
import preimage.jobs.invert
import preimage.jobs.sample
import preimage.jobs.train
import tiny
from preimage.cli import main
from preimage.commands import Invert, Measure, Output, Sample, Train
from preimage.config import PRESETS, RECIPES, ModelConfig
from preimage.data import load
from preimage.errors import PreimageError
from preimage.inversion import drawn_by
from preimage.jobs.invert import invert_job
from preimage.jobs.measure import Judges, find_judges
from preimage.jobs.report import Silent
from preimage.jobs.sample import sample_job
from preimage.jobs.train import train_config
from preimage.sources import load_classifier
from preimage.student import StudentConfig
from pretend import GPU, PretendedGPU

pytestmark = pytest.mark.usefixtures("workplace")


def timeless(value):
    """The same without what a clock says."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key != "seconds"}
    return value


def contents(folder):
    """All that a run leaves and that must not depend on how often it was broken off."""
    folder = Path(folder)
    assert not list(folder.glob(".*tmp")) + list(folder.glob(".*part"))
    return {
        "log": [timeless(json.loads(line)) for line in (folder / "metrics.jsonl").open()],
        "metrics": timeless(json.loads((folder / "metrics.json").read_text())),
        **{file.name: file.read_bytes() for file in folder.glob("*.safetensors")},
    }


# Imports torch once and forks the attempts. A child is killed from outside at a random moment
# after its log has grown by a random number of lines, or kills itself just before its n-th call
# of a function that the writing of files hangs on.
KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
from preimage.cli import main
import preimage.jobs.invert, preimage.jobs.ood_train, preimage.jobs.train

def child(arguments, call=None, nth=0):
    pid = os.fork()
    if pid:
        return pid
    if call:
        real, left = getattr(os, call), [nth]
        def fatal(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)
        setattr(os, call, fatal)
    os._exit(main(arguments))

def code(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def lines(out):
    log = Path(out, "metrics.jsonl")
    return log.read_bytes().count(b"\\n") if log.is_file() else 0

def kill_after(pid, out, more, delay):
    wanted, end = lines(out) + more, time.monotonic() + 60
    while lines(out) < wanted and time.monotonic() < end:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    return code(pid)

def trial(arguments, whole, broken):
    chance = random.Random(0)
    assert code(child([*arguments, "--out", whole])) == 0
    command = [*arguments, "--out", broken]
    codes = []
    for call, nth in (("replace", 1), ("fsync", 5), ("replace", 4), ("fsync", 9)):
        codes.append(code(child(command, call, nth)))
    for most in (0.3, 0.04, 0.04, 0.04):
        delay = chance.uniform(0, most)
        codes.append(kill_after(child(command), broken, chance.randrange(2), delay))
    assert code(child(command)) == 0
    return codes.count(-signal.SIGKILL)

print([trial(*job) for job in json.loads(sys.argv[1])], file=sys.stderr)
"""


def test_killed_jobs_end_as_unbroken_ones(tmp_path):
    """Killed (SIGKILL) at several moments, some of them in the middle of writing."""
    data = tiny.write_npz(tmp_path / "bands.npz")
    invert = tiny.invert_arguments("", steps=60)[:-2]
    train = [*tiny.train_arguments(data, "")[:-2], "--epochs", "30"]
    harden = [*tiny.ood_arguments(data, "")[:-2], "--epochs", "9"]
    jobs = [
        (invert, "whole-invert", "broken-invert"),
        (train, "whole-train", "broken-train"),
        (harden, "whole-ood", "broken-ood"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", KILLER, json.dumps(jobs)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    kills = json.loads(done.stderr.splitlines()[-1])
    # those at a call are certain; a quick machine may be done before those at a moment
    assert min(kills) >= 4, f"too few kills to tell anything: {kills}"
    for _, whole, broken in jobs:
        expected = contents(whole)
        assert contents(broken) == expected
        assert len(expected["log"]) >= 8
        made = ("generator", "classifier", "detector")
        assert {f"{name}.safetensors" for name in made} & expected.keys()


@pytest.mark.parametrize("kind", ["invert", "train", "ood"])
def test_disk_that_is_full_in_the_middle_costs_nothing(tmp_path, monkeypatch, capsys, kind):
    data = tiny.write_npz(tmp_path / "bands.npz")
    arguments = {
        "invert": lambda out: tiny.invert_arguments(out),
        "train": lambda out: tiny.train_arguments(data, out),
        "ood": lambda out: tiny.ood_arguments(data, out),
    }[kind]
    assert main(arguments("whole")) == 0
    capsys.readouterr()
    for call, nth in (("fsync", 3), ("fsync", 13), ("replace", 3)):
        with monkeypatch.context() as context:
            tiny.fail_once(context, call, nth, errno.ENOSPC)
            assert main(arguments("broken")) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("error: expected room on the disk for") and "free some space" in last
        assert "broken" in last
    assert main(arguments("broken")) == 0
    assert contents("broken") == contents("whole")
    assert len(contents("whole")["log"]) >= 4


def test_damaged_state_costs_only_the_work_since_the_one_before(capsys):
    """A state that is cut short or has a flipped bit is never read."""
    assert main(tiny.invert_arguments("whole")) == 0
    assert main(tiny.invert_arguments("broken")) == 0
    broken, expected = Path("broken"), contents("broken")
    for damage in (lambda data: data[: len(data) // 2], flip_a_bit):
        (broken / "metrics.json").unlink()
        (broken / "generator.safetensors").unlink()
        state = broken / "state.pt"
        state.write_bytes(damage(state.read_bytes()))
        assert main(tiny.invert_arguments("broken")) == 0
        assert contents("broken") == expected == contents("whole")
    (broken / "metrics.json").unlink()
    for state in broken.glob("state*.pt"):
        state.write_bytes(flip_a_bit(state.read_bytes()))
    before = (broken / "generator.safetensors").read_bytes()
    capsys.readouterr()
    assert main(tiny.invert_arguments("broken")) == 2
    assert "damaged" in capsys.readouterr().err
    assert (broken / "generator.safetensors").read_bytes() == before


def flip_a_bit(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def test_seconds_of_a_resumed_run_count_those_before(capsys):
    assert main(tiny.invert_arguments("run")) == 0
    run = Path("run")
    (run / "metrics.json").unlink()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    for line in lines:
        line["seconds"] += 1000
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(tiny.invert_arguments("run")) == 0
    assert json.loads((run / "metrics.json").read_text())["seconds"] > 1000


@pytest.fixture
def trained(tmp_path, capsys):
    """The data set, and run folders of two classifiers of it that are not alike."""
    data = tiny.write_npz(tmp_path / "bands.npz")
    for arch in ("mlp", "cnn"):
        assert main(tiny.train_arguments(data, tmp_path / arch, arch=arch)) == 0
    capsys.readouterr()
    return str(data), str(tmp_path / "mlp"), str(tmp_path / "cnn")


def test_trained_classifier_is_inverted_and_every_figure_measured(trained, monkeypatch, capsys):
    data, mlp, cnn = trained
    small = partial(StudentConfig, images=60, batch=20)
    monkeypatch.setattr(preimage.jobs.invert, "StudentConfig", small)
    few = [*tiny.FEW, "--steps", "20", "--student-steps", "4", "--json"]
    status = main(["invert", mlp, *few, "--data", data, "--evaluator", cnn, "--out", "run"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    record = json.loads(captured.out)
    shares = ["inversion_accuracy", "evaluator_accuracy", "confidence", "precision", "coverage"]
    for name in (*shares, "student_accuracy"):
        assert 0 <= record[name] <= 1, name
    for name in ("pixel", "pixel_real", "feature", "feature_real"):
        assert 1 <= record[f"vendi_{name}"] <= 10, name
    assert record["dataset"] == data and record["seconds"] > 0
    page = Path("run/gallery.html").read_text()
    assert "Coverage of real images" in page and f"{record['evaluator_accuracy']:.1%}" in page


@pytest.mark.parametrize("shape", [(16, 16), (8, 8, 3), (16, 12, 3)])
def test_test_images_of_another_shape_are_converted_to_the_trainings(shape, capsys):
    (images, labels), (others, wanted) = tiny.bands(120), tiny.bands(60, seed=1)
    rows, columns, *channels = shape
    others = torch.nn.functional.interpolate(torch.tensor(others)[:, None], (rows, columns))[:, 0]
    if channels:
        others = others[..., None].expand(-1, -1, -1, 3)
    splits = {"x_test": others.numpy(), "y_test": wanted}
    tiny.np.savez("mixed.npz", x_train=images, y_train=labels, **splits)
    assert main([*tiny.train_arguments("mixed.npz", "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test_accuracy"] > 0.5


@pytest.mark.parametrize(
    ("name", "recipe"),
    [("MNIST", "mnist"), ("Fashion-MNIST", "fashion_mnist"), ("cifar10", "cifar10")],
)
def test_recipe_follows_a_known_set_however_it_is_spelt(name, recipe):
    config, known = train_config(Train(name)), RECIPES[recipe]
    assert (config.epochs, config.batch) == (known.epochs, known.batch)
    assert config.augmentation == known.augmentation


def invert_command(out, model="tiny:build", **measure):
    small = replace(PRESETS["paper"].generator, width=4, latent=8)
    return Invert(
        ModelConfig(model, image=(1, tiny.SIDE, tiny.SIDE)),
        replace(PRESETS["paper"], generator=small, steps=5, batch=8, check_every=5),
        measure=Measure(samples=30, student=False, **measure),
        output=Output(out=str(out)),
    )


@pytest.mark.parametrize("fails", [False, True])
def test_judges_are_on_the_gpu_while_they_measure_and_back_afterwards(trained, monkeypatch, fails):
    data, mlp, cnn = trained
    classifier, evaluator = load_classifier(mlp), load_classifier(cnn)
    judges = Judges(data, load(data, "test"), evaluator)
    real, seen = preimage.jobs.invert.evaluate, []

    def watched(*arguments, **options):
        seen.extend(judge.mean.device for judge in (classifier, evaluator))
        if fails:
            raise PreimageError("broken")
        return real(*arguments, **options)

    module = preimage.jobs.invert
    monkeypatch.setattr(module, "evaluate", watched)
    monkeypatch.setattr(module, "find_judges", lambda *_: judges)
    monkeypatch.setattr(module, "make_fabric", lambda _: SimpleNamespace(device=GPU))
    with PretendedGPU():
        outcome = pytest.raises(PreimageError, match="broken") if fails else nullcontext()
        with outcome:
            invert_job(invert_command("run"), classifier=classifier)
        assert seen == [GPU, GPU]
        for judge in (classifier, evaluator):
            held = [*judge.parameters(), *judge.buffers()]
            assert {tensor.device.type for tensor in held} == {"cpu"}


def test_a_trained_classifier_is_scored_on_the_device_it_was_trained_on(monkeypatch):
    module, seen = preimage.jobs.train, []
    tiny.write_npz("bands.npz", train=40, test=20)
    monkeypatch.setattr(module, "make_fabric", lambda _: SimpleNamespace(device=GPU))
    monkeypatch.setattr(module, "accuracy_on", lambda it, _: seen.append(it.mean.device) or 0.5)
    with PretendedGPU():
        assert main(tiny.train_arguments("bands.npz", "run")) == 0
    assert seen == [GPU, GPU]
    assert load_classifier("run").mean.device.type == "cpu"


def test_samples_are_drawn_on_the_device_that_is_asked_for(monkeypatch):
    assert main(tiny.invert_arguments("run", "--no-student")) == 0
    sample_job(Sample("run", count=9, out="cpu.png", accelerator="cpu"))
    asked, drawn = [], []

    def fabric(runtime):
        asked.append(runtime.accelerator)
        return SimpleNamespace(device=GPU)

    def watched(generator, *inputs):
        drawn.append(next(generator.parameters()).device)
        return drawn_by(generator, *inputs)

    monkeypatch.setattr(preimage.jobs.sample, "make_fabric", fabric)
    monkeypatch.setattr(preimage.inversion, "drawn_by", watched)
    with PretendedGPU():
        sample_job(Sample("run", count=9, out="gpu.png", accelerator="cuda"))
    assert asked == ["cuda"] and drawn == [GPU]
    assert Path("gpu.png").read_bytes() == Path("cpu.png").read_bytes()


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_device_that_is_not_there_is_told_before_samples_are_drawn(capsys):
    assert main(tiny.invert_arguments("run", "--no-student")) == 0
    assert main(["sample", "run", "--accelerator", "cuda"]) == 2
    assert "CUDA device(s), found 0" in " ".join(capsys.readouterr().err.split())


class Listener(Silent):
    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


def judges_of(model, **measure):
    listener = Listener()
    config = ModelConfig(model)
    judges = find_judges(config, load_classifier(config), Measure(**measure), listener)
    return judges, listener.warnings


def test_judges_are_found_or_their_lack_is_told(trained, tmp_path):
    data, mlp, cnn = trained
    judges, warnings = judges_of(mlp)
    assert judges.real is None and judges.evaluator is None and judges.dataset is None
    assert len(warnings) == 1 and "--data" in warnings[0]
    judges, warnings = judges_of(mlp, data=data, evaluator=cnn)
    assert len(judges.real) == 60 and judges.evaluator.arch == "cnn" and not warnings
    assert judges_of(mlp, data=data, real=False)[0].real is None
    images, labels = tiny.bands(40)
    four = str(tmp_path / "four.npz")
    tiny.np.savez(four, images=images, labels=labels % 2 + 2)
    with pytest.warns(UserWarning, match="no splits"), pytest.raises(PreimageError) as caught:
        judges_of(mlp, data=four)
    assert "3 classes" in str(caught.value) and "found 4" in str(caught.value)


def test_bundled_classifiers_judge_one_another():
    """A bundled classifier has its own evaluator, and an evaluator the classifier."""
    for model, other in (("mnist", "mnist-evaluator"), ("mnist-evaluator", "mnist")):
        judges, _ = judges_of(model, real=False)
        assert judges.dataset == "mnist" and judges.evaluator.name == other


def test_data_of_another_size_is_converted_to_the_classifiers(trained, tmp_path):
    _, mlp, _ = trained
    images, labels = tiny.bands(30)
    large = str(tmp_path / "large.npz")
    pair = {"x_test": images.repeat(2, 1).repeat(2, 2), "y_test": labels}
    tiny.np.savez(large, **pair)
    judges, _ = judges_of(mlp, data=large)
    assert judges.real.spec.shape == (1, tiny.SIDE, tiny.SIDE)
    assert (judges.real.images.float() - torch.tensor(images)[:, None]).abs().max() <= 60


def test_photographs_of_several_sizes_are_converted_to_the_classifiers(trained, tmp_path):
    _, mlp, _ = trained
    for name, sides in (("a", (9, 12)), ("b", (20, 8)), ("c", (16, 30))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for side in sides:
            photo = Image.new("RGB", (side, 2 * side))
            photo.save(tmp_path / "photos" / name / f"{side}.png")
    with pytest.warns(UserWarning, match="no splits"):
        judges, _ = judges_of(mlp, data=str(tmp_path / "photos"))
    assert judges.real.images.shape == (6, 1, tiny.SIDE, tiny.SIDE)


@pytest.mark.parametrize("epochs", ["1", "40"])
def test_an_evaluator_that_knows_too_little_is_told(capsys, epochs):
    data = tiny.write_npz(Path("bands.npz"))
    assert main(tiny.train_arguments(data, "mlp")) == 0
    judge = [*tiny.train_arguments(data, "judge", arch="cnn"), "--epochs", epochs]
    assert main([*judge, "--lr", "0.0001" if epochs == "1" else "0.02"]) == 0
    capsys.readouterr()
    arguments = ["--data", str(data), "--evaluator", "judge", "--no-student", "--out", "run"]
    assert main(["invert", "mlp", *tiny.FEW, "--steps", "5", *arguments]) == 0
    told = "says of inversions tells little" in " ".join(capsys.readouterr().err.split())
    assert told == (epochs == "1")

"""Reconstruction, its control group and the command, end to end on tiny images."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import preimage.jobs.reconstruct
import preimage.leak.objective
import tiny
from preimage.classifier import Classifier
from preimage.cli import main
from preimage.config import ReconstructConfig, Runtime
from preimage.data import ImageSet, load
from preimage.errors import DivergedError, PreimageError
from preimage.inversion import predict
from preimage.jobs.report import Silent
from preimage.leak.control import pair
from preimage.leak.matching import similarities
from preimage.leak.reconstruction import (
    Reconstruction,
    reconstruct,
    step_seconds,
)
from preimage.leak.verdict import judge
from preimage.run import RunFolder
from preimage.runtime import stream
from preimage.types import ImageSpec
from preimage.zoo.architectures import build
from pretend import GPU, PretendedGPU

pytestmark = pytest.mark.usefixtures("workplace")

SPEC = ImageSpec(1, 8, 8)
QUICK = ReconstructConfig(images=6, steps=60)
FLAGS = ("--images", "30", "--steps", "20")


@pytest.fixture
def data():
    return str(tiny.write_npz("bands.npz", train=60, test=60))


def classifier(arch="mlp"):
    torch.manual_seed(0)
    return Classifier(build(arch, SPEC, 3, 8).eval(), SPEC)


def run(capsys, *arguments):
    capsys.readouterr()
    status = main([str(part) for part in arguments])
    out, err = capsys.readouterr()
    return status, out, " ".join(err.split())


def command(data, *more, out="run"):
    base = ("reconstruct", "tiny:build", *tiny.IMAGE, "--data", data, "--out", out)
    return (*base, *FLAGS, *more)


# --- the search -----------------------------------------------------------------------------


@pytest.mark.parametrize("carrier", ["direct", "generator"])
@pytest.mark.parametrize("arch", ["mlp", "cnn", "vit"])
def test_one_setting_serves_every_architecture(arch, carrier):
    target = classifier(arch)
    before = {name: t.clone() for name, t in target.network.state_dict().items()}
    seen = []
    found = reconstruct(
        target, replace(QUICK, carrier=carrier, steps=50), on_step=lambda p: seen.append(p.values)
    )
    assert found.images.shape == (6, *SPEC.shape)
    assert float(found.images.min()) >= 0 and float(found.images.max()) <= 1
    assert torch.bincount(found.labels).tolist() == [2, 2, 2]
    # small networks of random weights hardly tell their classes apart, some more than others
    assert seen[-1]["ce"] < seen[0]["ce"] and all(np.isfinite(list(seen[-1].values())))
    after = target.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad and p.grad is None for p in target.network.parameters())


def test_weights_that_the_answer_does_not_hang_on_are_left_out():
    class WithSpare(torch.nn.Module):
        """Has a head that only training uses."""

        def __init__(self):
            super().__init__()
            self.main, self.spare = build("mlp", SPEC, 3, 8), torch.nn.Linear(4, 4)

        def forward(self, images):
            return self.main(images)

    found = reconstruct(Classifier(WithSpare().eval(), SPEC), replace(QUICK, steps=3))
    assert bool(found.images.isfinite().all())


def test_images_move_towards_stationarity():
    """On a network that was trained from small weights, which is where the conditions hold."""
    torch.manual_seed(0)
    network = build("mlp", SPEC, 3, 32)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.1)
    images, labels = (torch.from_numpy(part) for part in tiny.bands(6))
    images = images[:, None].float() / 255
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for _ in range(600):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    seen = []
    target = Classifier(network.eval(), SPEC)
    config = replace(QUICK, steps=300, lr=0.01, start="noise")
    reconstruct(target, config, on_step=lambda p: seen.append(p.values["stationarity"]))
    # single values jump between about .15 and .3: where it mostly is counts
    first, *later = seen
    assert sum(later) / len(later) < 0.8 * first and min(later) < 0.5 * first


def test_a_broken_search_ends_as_an_unbroken_one():
    target = classifier()
    config = replace(QUICK, steps=220)
    whole = reconstruct(target, config)
    memory = tiny.Memory()

    with pytest.raises(KeyboardInterrupt):
        reconstruct(target, config, checkpoint=memory, on_step=tiny.killer(step=150))
    assert memory.state["step"] == 100
    again = reconstruct(target, config, checkpoint=memory)
    assert torch.equal(whole.images, again.images)


def test_what_came_out_of_the_weights_is_not_taken_out_again(monkeypatch):
    """Of many images that takes minutes."""
    calls = []

    def unmix(layer, spec, **_):
        calls.append(layer)
        images = torch.rand(4, *SPEC.shape, generator=stream("unmixed"))
        return SimpleNamespace(images=images, possible=4, certain=4)

    monkeypatch.setattr(preimage.leak.reconstruction, "unmix", unmix)
    whole, memory = reconstruct(classifier(), QUICK), tiny.Memory()
    with pytest.raises(KeyboardInterrupt):
        reconstruct(classifier(), QUICK, checkpoint=memory, on_step=tiny.killer(step=25))
    assert memory.state["step"] == 0 and len(calls) == 2
    again = reconstruct(classifier(), QUICK, checkpoint=memory)
    assert len(calls) == 2 and again.unmixed == 4 and torch.equal(whole.images, again.images)


def test_a_classifier_without_a_gradient_is_one_sentence():
    class Blind(torch.nn.Module):
        """Answers without a graph."""

        def __init__(self):
            super().__init__()
            self.inner = build("mlp", SPEC, 3, 8)

        @torch.no_grad()
        def forward(self, images):
            return self.inner(images)

    with pytest.raises(PreimageError, match=r"a gradient at its input.* take torch\.no_grad"):
        reconstruct(Classifier(Blind().eval(), SPEC), QUICK)


def test_weights_without_a_gradient_are_left_out():
    class Indexed(torch.nn.Module):
        """Holds whole numbers as a parameter."""

        def __init__(self):
            super().__init__()
            self.order = torch.nn.Parameter(torch.arange(64).flip(0), requires_grad=False)
            self.inner = build("mlp", SPEC, 3, 8)

        def forward(self, images):
            return self.inner(images.flatten(1)[:, self.order].view_as(images))

    found = reconstruct(Classifier(Indexed().eval(), SPEC), replace(QUICK, steps=3))
    assert len(found.images) == QUICK.images


def test_weights_that_no_answer_hangs_on_are_one_sentence():
    class Beside(torch.nn.Module):
        """Computes with buffers, and has a parameter of no use."""

        def __init__(self):
            super().__init__()
            self.register_buffer("matrix", torch.rand(64, 3))
            self.scale = torch.nn.Parameter(torch.ones(1))
            self.same = torch.nn.Linear(3, 3)

        def forward(self, images):
            self.same(torch.zeros(len(images), 3))
            return images.flatten(1) @ self.matrix

    with pytest.raises(PreimageError, match="parameters that its answer hangs on"):
        reconstruct(Classifier(Beside().eval(), SPEC), QUICK)


@pytest.mark.parametrize(("setting", "value"), [("start", "weight"), ("carrier", "pixels")])
def test_words_that_no_setting_has_are_one_sentence(setting, value):
    with pytest.raises(PreimageError, match=f"expected --{setting} out of .*found '{value}'"):
        reconstruct(classifier(), replace(QUICK, **{setting: value}))


def test_terms_without_a_say_cost_nothing():
    seen = []
    alone = dict.fromkeys(preimage.leak.reconstruction.SAYS, 0.0) | {"ce": 1.0}
    reconstruct(classifier(), replace(QUICK, **alone), on_step=lambda p: seen.append(p.values))
    assert set(seen[0]) == {"ce"}


@pytest.mark.parametrize(
    ("tries", "enough", "steps"),
    [(1, math.inf, 4), (4, math.inf, 7), (4, 0.0, 2), (4, 4.0, 4), (4, 1.5, 4), (4, 0.5, 3)],
)
def test_steps_are_timed_by_whole_rounds_until_there_is_no_doubt(monkeypatch, tries, enough, steps):
    """Where each takes a second."""
    took, clock = [], iter(range(100))
    search = preimage.leak.reconstruction._Search
    monkeypatch.setattr(search, "step", lambda self, step: took.append(step))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    measured = step_seconds(classifier(), QUICK, Runtime(accelerator="cpu"), tries, enough)
    assert len(took) == steps and measured == pytest.approx(1.0)


def test_divergence_is_one_sentence(monkeypatch):
    def nan(sample):
        return sample.images.mean() * float("nan")

    monkeypatch.setattr(preimage.leak.objective, "total_variation", nan)
    with pytest.raises(DivergedError, match="lower --lr"):
        reconstruct(classifier(), QUICK)


# --- the control group ----------------------------------------------------------------------


def bands(count, seed=0):
    images, labels = tiny.bands(count, seed)
    return ImageSet(
        "bands", "all", torch.from_numpy(images)[:, None], torch.from_numpy(labels), tuple("abc")
    )


def test_groups_are_equal_in_number_and_share_no_image():
    train, heldout = bands(50), bands(80, seed=1)
    heldout = replace(heldout, images=torch.cat([train.images[:7], heldout.images[7:]]))
    groups = pair(train, heldout, most=1000)
    assert len(groups.train) == len(groups.control) == 43 and groups.shared == 7
    shared = {image.numpy().tobytes() for image in train.images[:7]}
    for side in (groups.train, groups.control):
        assert not any(image.numpy().tobytes() in shared for image in side.images)
    assert len(pair(train, heldout, most=30).train) == 30


@pytest.mark.parametrize("side", ["training", "held-out"])
def test_copies_of_an_image_count_once(side):
    """Four copies change places one by one, though they are held out or seen together."""
    once, other = bands(40), bands(160, seed=1)
    copied = replace(once, images=once.images.repeat(4, 1, 1, 1), labels=once.labels.repeat(4))
    groups = pair(*((copied, other) if side == "training" else (other, copied)), most=1000)
    assert groups.repeated == 120 and len(groups.train) == len(groups.control) <= 40
    for group in (groups.train, groups.control):
        assert len({image.numpy().tobytes() for image in group.images}) == len(group)


def test_groups_have_as_many_images_of_each_class():
    """Where one side has more of a class, it has nearer neighbours of any image of that class."""
    train, other = bands(300), bands(300, seed=1)
    random = torch.Generator().manual_seed(0)
    rare = (other.labels != 2) | (torch.rand(300, generator=random) < 0.2)
    heldout = other.subset(rare.nonzero().flatten())
    for most in (1000, 90):
        groups = pair(train, heldout, most=most)
        counts = [groups.train.labels.bincount(), groups.control.labels.bincount()]
        assert torch.equal(*counts) and counts[0].sum() == len(groups.train)
    assert len(groups.train) == 90
    none = heldout.subset((heldout.labels != 2).nonzero().flatten())
    assert pair(train, none, most=1000).train.labels.unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("heldout", "said"),
    [
        (lambda: bands(60), "found 0 among 0 and 0 .* as 60 held-out images are training images"),
        (lambda: bands(10, 1), "at least 20 training and as many held-out"),
        (lambda: bands(60, 1).convert(ImageSpec(3, 8, 8)), "images 1x8x8 of 3 classes"),
        (lambda: replace(bands(60, 1), class_names=("a", "b")), "of 2; give"),
    ],
)
def test_groups_that_make_no_test_are_one_sentence(heldout, said):
    with pytest.raises(PreimageError, match=said):
        pair(bands(60), heldout(), most=1000)


@pytest.mark.parametrize(
    ("train", "heldout", "mixed", "said"),
    [
        (28, 28, (False, False), None),
        (28, 29, (False, False), "size, 28x28, found 29x29; brought to one size"),
        (28, 29, (True, False), "size, several with a median of 28x28, found 29x29"),
        (28, 28, (True, False), None),  # an odd one among many of one size
        (28, 34, (True, True), None),
        (34, 28, (True, True), None),
        (28, 36, (True, True), "median of 28x28, found several with a median of 36x36"),
        (36, 28, (True, True), "median of 36x36, found several with a median of 28x28"),
        (28, None, (True, False), None),
    ],
)
def test_groups_of_sizes_that_tell_them_apart_are_one_sentence(train, heldout, mixed, said):
    sides = [
        replace(bands(60, seed), stored=side and ImageSpec(1, side, side), mixed=several)
        for seed, side, several in zip((0, 1), (train, heldout), mixed, strict=True)
    ]
    if said is None:
        assert len(pair(*sides, most=1000).train) == 60
    else:
        with pytest.raises(PreimageError, match=said):
            pair(*sides, most=1000)


def test_grey_images_beside_coloured_ones_make_no_test():
    grey, other = (bands(60, seed).convert(ImageSpec(3, 8, 8)) for seed in (0, 1))
    random = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, other.images.shape, generator=random, dtype=torch.uint8)
    coloured = replace(other, images=noise)
    for sides, said in (
        ((grey, coloured), "in grey.* found colour"),
        ((coloured, grey), "found g"),
    ):
        with pytest.raises(PreimageError, match=said):
            pair(*sides, most=1000)
    some = replace(other, images=torch.cat([~noise[:20], other.images[20:]]))
    for sides in ((grey, other), (coloured, some), (coloured, replace(coloured, images=~noise))):
        assert len(pair(*sides, most=1000).train) == 60


# --- the verdict's calibration --------------------------------------------------------------


def coarse(*key):
    """24 images of random squares in random classes, of which nothing can be learnt but itself."""
    squares = torch.randint(0, 256, (24, 1, 4, 4), generator=stream("squares", *key))
    images = squares.to(torch.uint8).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return ImageSet("squares", "all", images, torch.arange(24) % 3, tuple("abc"))


def verdict(found, groups):
    both = torch.cat([groups.train.floats(), groups.control.floats()])
    return judge(*similarities(found, both, 64).split(len(groups.train), dim=1))


def test_classifiers_of_other_images_are_hardly_ever_said_to_leak():
    """Whole searches of eight classifiers, each beside five pairs of groups that it never saw."""
    answers = []
    for seed in range(8):
        seen = coarse("seen", seed)
        torch.manual_seed(seed)
        network = tiny.fit(build("mlp", SPEC, 3, 32), lambda _, s=seen: (s.floats(), s.labels), 60)
        assert bool((network(seen.floats()).argmax(1) == seen.labels).all())
        quick = replace(QUICK, images=20, steps=25, start="noise", seed=seed)
        found = reconstruct(Classifier(network, SPEC), quick).images
        for trial in range(5):
            unseen = (coarse(side, seed, trial) for side in ("one", "other"))
            answers.append(verdict(found, pair(*unseen, most=1000)))
        # what does hold training images is told by the same steps
        leaking = torch.cat([found[:5], seen.floats()[:15]])
        assert verdict(leaking, pair(seen, coarse("other", seed), most=1000)).verdict == "leaks"
    assert len(answers) == 40 and [one.verdict for one in answers].count("leaks") <= 2
    # not all of them are 1, as where the statistic is always 0
    assert min(one.p_value for one in answers) < 0.5 < max(one.p_value for one in answers)


# --- the command ----------------------------------------------------------------------------


def test_the_command_leaves_figures_images_and_a_page(capsys, monkeypatch, data, tmp_path):
    monkeypatch.setattr("preimage.runtime._cpu_has_bf16", lambda: True)  # which is no use here
    status, out, err = run(capsys, *command(data, "--json"))
    assert status == 0, err
    result = json.loads(out)
    fields = (
        *("dataset", "arch", "n_train", "classes", "seed", "method"),
        *("recovered", "recovered_control"),
        *("ssim_train", "ssim_control", "effect", "p_value", "verdict", "target_accuracy"),
        *("seconds", "reason", "interval"),
    )
    assert set(fields) <= set(result)
    assert result["verdict"] in ("leaks", "no evidence of a leak", "can't tell")
    assert result["images_each"] == result["n_train"] == 60 and result["arch"] is None
    assert result["compute_precision"] == "32-true"
    record = json.loads((tmp_path / "run" / "reconstruct.json").read_text())
    assert record == {name: result[name] for name in record} and set(fields) <= set(record)
    page = (tmp_path / "run" / "reconstruct.html").read_text()
    assert "Nearest held-out image" in page and "data:image/png" in page
    again = run(capsys, *command(data, "--json"))
    assert json.loads(again[1]) == result


def test_groups_are_compared_on_the_device_that_was_searched_on(capsys, monkeypatch, data):
    module, seen = preimage.jobs.reconstruct, []

    def watched(classifier, images):
        seen.append(classifier.mean.device)
        return predict(classifier, images)

    monkeypatch.setattr(module, "predict", watched)
    monkeypatch.setattr(module, "make_fabric", lambda _: SimpleNamespace(device=GPU))
    with PretendedGPU():
        status, _, err = run(capsys, *command(data))
    assert status == 0, err
    assert seen == [GPU, GPU]


def test_what_voids_a_verdict_is_in_the_record_and_on_the_page(capsys):
    data = tiny.write_npz("few.npz", train=60, test=60)
    assert main([*map(str, tiny.train_arguments(data, "few", "--limit", "30"))]) == 0
    status, out, err = run(
        capsys, *("reconstruct", "few", "--data", data, "--out", "run", *FLAGS, "--json")
    )
    assert status == 0, err
    (warning,) = json.loads(out)["warnings"]
    assert "most of which it may never have seen" in warning and warning[:40] in err
    assert "most of which it may never have seen" in Path("run/reconstruct.html").read_text()


@pytest.mark.parametrize("side", ["train", "test"])
def test_the_verdict_follows_whose_images_were_found(capsys, monkeypatch, data, side):
    """A search that hands out real images stands in for one that works."""
    real = load(data, side)

    def found(*_, **__):
        noise = torch.randn(30, *SPEC.shape, generator=torch.Generator().manual_seed(0)) * 0.02
        return Reconstruction((real.floats()[:30] + noise).clamp(0, 1), real.labels[:30])

    monkeypatch.setattr(preimage.jobs.reconstruct, "reconstruct", found)
    status, out, err = run(capsys, *command(data, "--json"))
    assert status == 0, err
    result = json.loads(out)
    assert (result["verdict"] == "leaks") is (side == "train")
    if side == "train":
        assert result["recovered"] == 30 and result["ssim_train"] > result["ssim_control"]
        assert result["p_value"] <= 0.01


def test_two_reconstructions_are_compared(capsys, monkeypatch, data, tmp_path):
    for name, side in (("copies", "train"), ("others", "test")):
        real = load(data, side)
        made = Reconstruction(real.floats()[:30], real.labels[:30], 30)
        monkeypatch.setattr(
            preimage.jobs.reconstruct, "reconstruct", lambda *_, made=made, **__: made
        )
        assert run(capsys, *command(data, out=str(tmp_path / name)))[0] == 0
    runs = [str(tmp_path / name) for name in ("copies", "others")]
    status, out, err = run(capsys, "compare", *runs, "--json")
    assert status == 0, err
    changes = {d["name"]: d["change"] for d in json.loads(out)["differences"]}
    assert changes["leak.verdict"] == changes["leak.copied"] == "better"
    assert json.loads(out)["warnings"] == []
    others, held = (str(tmp_path / name) for name in ("more", "held.npz"))
    images, labels = tiny.bands(90, seed=5)
    np.savez(held, images=images, labels=labels)
    assert run(capsys, *command(data, "--heldout", held, "--most", "40", out=others))[0] == 0
    told = json.loads(run(capsys, "compare", runs[0], others, "--json")[1])["warnings"]
    assert [text.partition(":")[0] for text in told] == [
        "the two audits differ in heldout",
        "the two audits differ in most",
        "the two audits differ in the content of the held out images",
        "the two audits differ in the content of the training images",
    ]
    made = tmp_path / "others" / "environment.json"
    older = json.loads(made.read_text())
    older["versions"]["torch"] = "1.0.0"
    made.write_text(json.dumps(older))
    told = json.loads(run(capsys, "compare", *runs, "--json")[1])["warnings"]
    assert [text.partition(":")[0] for text in told] == [
        "the two audits differ in the version of torch"
    ]
    made.unlink()
    assert json.loads(run(capsys, "compare", *runs, "--json")[1])["warnings"] == []
    (tmp_path / "others" / "metrics.json").unlink()
    status, _, err = run(capsys, "compare", *runs)
    assert status != 0 and "finished run" in err


def test_a_killed_command_remembers_how_long_the_weights_took(capsys, monkeypatch, data):
    def unmix(*_, **__):
        time.sleep(1)
        images = torch.rand(4, *SPEC.shape, generator=stream("unmixed"))
        return SimpleNamespace(images=images, possible=4, certain=4)

    with monkeypatch.context() as patch:
        patch.setattr(preimage.leak.reconstruction, "unmix", unmix)
        patch.setattr(preimage.leak.reconstruction._Search, "run", tiny.killer())
        assert run(capsys, *command(data))[0] == 130
    assert RunFolder.open("run").load_state()["elapsed_seconds"] >= 1
    status, out, err = run(capsys, *command(data, "--json"))
    assert status == 0, err
    result = json.loads(out)
    assert result["unmixed"] == 4 and result["seconds"] >= 1


def test_a_killed_command_goes_on_and_ends_as_an_unbroken_one(capsys, monkeypatch, data, tmp_path):
    longer = ("--steps", "160", "--start", "noise")
    assert run(capsys, *command(data, *longer, out="whole"))[0] == 0
    logger = preimage.jobs.reconstruct._logger

    def fatal(folder, report, start):
        log, kill = logger(folder, report, start), tiny.killer(step=125)
        return lambda progress: (log(progress), kill(progress))

    with monkeypatch.context() as patch:
        patch.setattr(preimage.jobs.reconstruct, "_logger", fatal)
        assert run(capsys, *command(data, *longer))[0] == 130
    broken = tmp_path / "run" / "metrics.jsonl"
    assert json.loads(broken.read_text().splitlines()[-1])["step"] == 125
    assert run(capsys, *command(data, *longer))[0] == 0
    lines = [json.loads(line) for line in broken.read_text().splitlines()]
    assert [line["step"] for line in lines] == [25, 50, 75, 100, 125, 150, 160]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)  # those before the break count as well
    files = [tmp_path / name / "reconstructions.safetensors" for name in ("whole", "run")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_shared_images_are_reported(capsys, data):
    images, labels = tiny.bands(60)
    more, more_labels = tiny.bands(60, seed=3)
    np.savez(
        "held.npz",
        images=np.concatenate([images[:5], more]),
        labels=np.concatenate([labels[:5], more_labels]),
    )
    status, _, err = run(capsys, *command(data, "--heldout", "held.npz"))
    assert status == 0
    assert "5 held-out images are training images as well and are left out" in err


def test_held_out_images_of_another_size_are_refused(capsys, data, tmp_path):
    """Brought to the classifier's size, they are softer, which is no sign of a leak."""
    images, labels = tiny.bands(60, seed=3)
    np.savez("large.npz", images=images.repeat(2, 1).repeat(2, 2), labels=labels)
    status, _, err = run(capsys, *command(data, "--heldout", "large.npz"))
    assert status == 2 and "Traceback" not in err
    assert "stored in the training images' size, 8x8, found 16x16" in err
    assert not (tmp_path / "run").exists()


def test_kept_images_tell_the_size_that_they_were_brought_from(capsys):
    for name, seed in (("large.npz", 0), ("more.npz", 3)):
        images, labels = tiny.bands(60, seed)
        large = images.repeat(2, 1).repeat(2, 2)
        np.savez(name, x_train=large, y_train=labels, x_test=large, y_test=labels)
    few = ("--limit", "24", *tiny.IMAGE)
    assert run(capsys, *tiny.train_arguments("large.npz", "few", *few))[0] == 0
    beside = ("reconstruct", "few", *FLAGS, "--steps", "3", "--out", "run", "--heldout")
    status, _, err = run(capsys, *beside, "more.npz")
    assert status == 0, err
    tiny.write_npz("small.npz")
    status, _, err = run(capsys, *beside, "small.npz")
    assert status == 2 and "size, 16x16, found 8x8" in err


def test_another_known_data_set_is_no_control():
    with pytest.raises(PreimageError, match=r"training images' data set, mnist, found fashion"):
        preimage.jobs.reconstruct._check_sources("mnist", "mnist", "Fashion-MNIST", Silent())
    said = []
    heard = SimpleNamespace(warn=said.append)
    for own, train, heldout in (
        ("mnist", "mnist", "mnist"),
        (None, "cifar10", "cifar10"),
        ("mnist", "of-mine.npz", "mnist"),
        (None, "few/images.npz", "mnist"),
    ):
        preimage.jobs.reconstruct._check_sources(own, train, heldout, heard)
    assert not said
    preimage.jobs.reconstruct._check_sources("mnist", "fashion_mnist", "fashion_mnist", heard)
    assert "trained on mnist and is compared with images of fashion_mnist" in said[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--most", "5"), "at least 20 training and as many held-out"),
        (("--images", "1"), "expected --images of at least 2"),
        (("--epsilon", "2"), "expected --epsilon from 0 to 1"),
        (("--stationarity", "-1"), "expected --stationarity of at least 0"),
        (("--precision", "bf16-mixed"), "need float32, found bf16-mixed"),
        (("--heldout", "nowhere"), "there is no image set 'nowhere'"),
        (("--evaluator", "mnist"), "expected an evaluator of 3 classes"),
    ],
)
def test_bad_input_is_one_sentence(capsys, data, arguments, said):
    status, _, err = run(capsys, *command(data, *arguments))
    assert status == 2 and said in err and "Traceback" not in err


def test_training_data_must_be_named_and_fit(capsys, data):
    status, _, err = run(capsys, "reconstruct", "tiny:build", *tiny.IMAGE)
    assert status == 2 and "give it with --data" in err
    images, labels = tiny.bands(60)
    np.savez("two.npz", images=images, labels=labels % 2)
    status, _, err = run(capsys, *command("two.npz"))
    assert status == 2 and "expected training images of 3 classes" in err
    status, _, err = run(capsys, *command(data, "--heldout", "two.npz"))
    assert status == 2 and "expected held-out images of 3 classes" in err

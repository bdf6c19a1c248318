"""Hardening, detectors and the commands round them, end to end on tiny images."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import tiny
from preimage.classifier import Classifier
from preimage.config import Augmentation, HardenConfig, TrainConfig
from preimage.data import load
from preimage.errors import PreimageError
from preimage.inversion import predict
from preimage.ood import Detector, baselines, harden
from preimage.ood.baselines import Fitted, baseline_names, fit_baseline
from preimage.ood.figures import separation
from preimage.ood.rounds import Candidates, Rounds
from preimage.ood.splitting import split_up
from preimage.runtime import stream
from preimage.sources import load_classifier
from preimage.training import accuracy_on
from preimage.types import ImageSpec
from tiny import evaluate, run

pytestmark = pytest.mark.usefixtures("workplace")

SMALL = HardenConfig(
    noise=40, garbage=120, gain=30, inversion_steps=4, inversion_batch=16, valid=20, margin=1.0
)
TRAINING = TrainConfig(
    arch="cnn", width=4, epochs=4, batch=20, lr=0.02, augmentation=Augmentation(shift=0)
)
FLAGS = tiny.HARDEN


# --- hardening ------------------------------------------------------------------------------


def test_hardening_tells_noise_and_knows_its_classes(shared):
    data = load(str(shared / "bands.npz"), "train")
    hardened = harden(data, SMALL, TRAINING)
    test = load(str(shared / "bands.npz"), "test")
    assert accuracy_on(hardened.classifier, test) > 0.8
    detector = Detector(hardened.classifier).fit(hardened.split.validation)
    noise = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    assert separation(detector(test.floats()), detector(noise)).auroc > 0.95
    assert len(hardened.pool) == 120 and hardened.pool.last_round == 3
    assert [epoch.added for epoch in hardened.epochs] == [30, 30, 30, 0]
    assert set(hardened.epochs[0].__dict__) >= {"accepted", "verdict", "excluded"}


def test_hardening_resumes_to_the_same_end(shared):
    data = load(str(shared / "bands.npz"), "train")
    whole = harden(data, SMALL, TRAINING)
    memory = tiny.Memory()

    with pytest.raises(KeyboardInterrupt):
        harden(data, SMALL, TRAINING, checkpoint=memory, on_epoch=tiny.killer(epoch=3))
    assert memory.state["step"] == 2
    again = harden(data, SMALL, TRAINING, checkpoint=memory)
    states = [part.classifier.network.state_dict() for part in (whole, again)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert torch.equal(whole.pool.images, again.pool.images)


def test_zero_rounds_leave_garbage_at_noise(shared):
    data = load(str(shared / "bands.npz"), "train")
    hardened = harden(data, replace(SMALL, rounds=0), replace(TRAINING, epochs=2))
    assert len(hardened.pool) == 40 and hardened.pool.last_round == 0


@pytest.mark.parametrize("head", ["extend", "beside"])
def test_a_trained_classifier_is_hardened_and_left_alone(shared, head):
    data = load(str(shared / "bands.npz"), "train")
    start = load_classifier(str(shared / "plain"))
    before = {name: t.clone() for name, t in start.network.state_dict().items()}
    hardened = harden(
        data, replace(SMALL, head=head), replace(TRAINING, optimizer="adamw"), start=start
    )
    after = start.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert hardened.classifier.classes == 4
    if head == "beside":
        images = data.floats()[:9]
        given = start.eval()(images).logits
        assert torch.equal(hardened.classifier(images).logits[:, :3], given)


def test_poisoned_garbage_makes_the_guard_go_back_and_stop(shared, monkeypatch):
    """Where known images themselves turn up as garbage, accuracy falls and the guard ends it."""
    data = load(str(shared / "bands.npz"), "train")

    def poison(self, known):
        return Candidates(data.images, 0, 1.0)

    monkeypatch.setattr(Rounds, "next", poison)
    monkeypatch.setattr("preimage.ood.hardening._MOST_WEIGHT", 3.0)
    config = replace(
        SMALL, noise=4, garbage=400, gain=240, margin=0.1, patience=1, share=1.0, weight=9.0
    )
    hardened = harden(data, config, replace(TRAINING, epochs=8))
    verdicts = [epoch.verdict for epoch in hardened.epochs]
    assert "back" in verdicts and verdicts[-1] == "stop" and len(verdicts) < 8
    best = max(epoch.valid_accuracy for epoch in hardened.epochs)
    kept = accuracy_on(hardened.classifier, hardened.split.validation)
    assert kept >= best - config.margin - 1e-6
    assert hardened.epochs[-1].valid_accuracy < kept


def _judged(monkeypatch, accuracies):
    """Let the guard see these accuracies, one an epoch."""
    given = iter(accuracies)
    monkeypatch.setattr("preimage.ood.hardening.accuracy_on", lambda *_: next(given))


@pytest.mark.parametrize(
    ("rounds", "accuracies", "pools"),
    [
        (0, [0.9, 0.5, 0.9, 0.9], [40, 40, 40, 40]),  # noise is never given up
        (1, [0.9, 0.5, 0.5, 0.9], [70, 40, 40, 40]),
        # the first round was learnt by an epoch that was good: it stays
        (2, [0.9, 0.9, 0.5, 0.5], [70, 100, 70, 70]),
    ],
)
def test_a_fall_drops_the_round_that_no_good_epoch_has_learnt(
    shared, monkeypatch, rounds, accuracies, pools
):
    data = load(str(shared / "bands.npz"), "train")
    _judged(monkeypatch, accuracies)
    config = replace(SMALL, rounds=rounds, margin=0.1, patience=3)
    hardened = harden(data, config, TRAINING)
    assert [epoch.garbage for epoch in hardened.epochs] == pools


def test_the_good_state_stays_as_it_was_however_often_it_is_gone_back_to(shared, monkeypatch):
    data = load(str(shared / "bands.npz"), "train")
    _judged(monkeypatch, [0.9, 0.5, 0.5])
    seen = []
    memory = tiny.Memory()

    def keep(epoch):
        if memory.state is not None:
            momentum = memory.state["guard"]["good"]["optimizer"]["state"][0]["momentum_buffer"]
            seen.append(momentum.clone())

    training = replace(TRAINING, epochs=4, optimizer="sgd")
    config = replace(SMALL, rounds=0, margin=0.1, patience=1)
    hardened = harden(data, config, training, checkpoint=memory, on_epoch=keep)
    assert [epoch.verdict for epoch in hardened.epochs] == ["good", "back", "stop"]
    assert torch.equal(seen[0], seen[-1])
    assert hardened.kept is hardened.epochs[0]


@pytest.mark.parametrize(("images", "valid"), [(240, 3), (15, 20)])
def test_too_few_images_to_hold_out_are_refused_before_the_training(shared, images, valid):
    data = load(str(shared / "bands.npz"), "train").subset(slice(0, images))
    with pytest.raises(PreimageError, match="at least 4 images to hold out"):
        harden(data, replace(SMALL, valid=valid), TRAINING)


def test_data_that_do_not_fit_the_classifier_are_one_sentence(shared):
    data = load(str(shared / "bands.npz"), "train", spec=ImageSpec(1, 10, 10))
    start = load_classifier(str(shared / "plain"))
    with pytest.raises(PreimageError, match=r"images 1x8x8 of 3 classes.*found 1x10x10 of 3"):
        harden(data, SMALL, TRAINING, start=start)


# --- detectors ------------------------------------------------------------------------------


def test_a_detector_loads_as_it_was_saved(shared, tmp_path):
    detector = Detector.load(shared / "hard")
    detector.save(tmp_path / "again.safetensors")
    again = Detector.load(tmp_path / "again.safetensors")
    images = torch.rand(7, 1, 8, 8)
    assert torch.equal(again.predict(images), detector.predict(images))
    assert again.thresholds == detector.thresholds and again.class_names == ("0", "1", "2")


def test_the_threshold_lets_through_what_was_asked_for(shared):
    detector = Detector.load(shared / "hard")
    known = load(str(shared / "bands.npz"), "test")
    for tpr in (0.5, 0.9, 1.0):
        detector.fit(known, tpr, reference=known)
        let_through = float((~detector.is_ood(detector(known.floats()))).float().mean())
        assert tpr - 1e-6 <= let_through <= tpr + 2 / len(known)


def test_new_images_exceed_the_threshold_no_more_often_than_was_asked_for(shared):
    """Without a reference part of the images stands in for it, and is no measure of new ones."""
    hard = Detector.load(shared / "hard")
    images = torch.from_numpy(tiny.bands(1600, seed=5)[0])[:, None].float() / 255
    shares = []
    for draw in images[:400].split(100):
        detector = Detector(hard.classifier, "features").fit(draw, 0.9)
        shares.append(float(detector.is_ood(detector(images[400:])).float().mean()))
    assert sum(shares) / len(shares) < 0.15


def test_a_reference_may_come_in_any_order(shared, monkeypatch):
    monkeypatch.setattr("preimage.ood.layers._KEPT", 60)
    monkeypatch.setattr("preimage.ood.nearness._KEPT", 60)
    hard = Detector.load(shared / "hard")
    train = load(str(shared / "bands.npz"), "train")
    known = load(str(shared / "bands.npz"), "test")

    def means(order):
        detector = Detector(hard.classifier, "features").fit(known, reference=train.subset(order))
        scores = detector(known.floats())
        return torch.stack([scores[known.labels == k].mean() for k in range(3)])

    mixed = torch.randperm(len(train), generator=stream("order"))
    by_class = train.labels.argsort(stable=True)
    assert float((means(mixed) - means(by_class)).abs().max()) < 0.6


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.rand(6, 3, 8, 8), r"\(B, 1, 8, 8\)"),
        (torch.rand(6, 1, 16, 16), r"\(B, 1, 8, 8\)"),
        (torch.zeros(0, 1, 8, 8), "at least one"),
        (torch.full((6, 1, 8, 8), 200, dtype=torch.uint8), "bytes by 255"),
        (torch.rand(6, 1, 8, 8) * 9, r"floats in \[0, 1\]"),
    ],
)
def test_images_that_do_not_fit_a_detector_are_one_sentence(shared, images, said):
    detector = Detector.load(shared / "hard")
    with pytest.raises(PreimageError, match=said):
        detector.predict(images)
    if len(images):
        with pytest.raises(PreimageError, match=said):
            detector.fit(images)


def test_a_detector_that_was_not_fitted_is_not_saved(shared, tmp_path):
    hard = Detector.load(shared / "hard")
    with pytest.raises(PreimageError, match="call fit first"):
        Detector(hard.classifier, recipe=hard.recipe).save(tmp_path / "d.safetensors")
    assert not (tmp_path / "d.safetensors").exists()


def test_thresholds_come_from_unfamiliar_images_where_there_are_some(shared):
    detector = Detector.load(shared / "hard")
    known = load(str(shared / "bands.npz"), "test")
    strange = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for score in ("garbage", "features", "layers", "combined"):
        detector = Detector(detector.classifier, score).fit(known, reference=known)
        assert bool(detector.is_ood(detector(strange)).any())
        detector.fit(known, 1.0, reference=known, unfamiliar=strange)
        assert not bool(detector.is_ood(detector(strange)).any())


def test_numbers_of_films_make_the_threshold_careful_and_are_one_for_each_image(shared):
    detector = Detector.load(shared / "hard")
    known = load(str(shared / "bands.npz"), "test")
    plain = detector.fit(known, 0.9, reference=known).threshold
    few = detector.fit(known, 0.9, reference=known, films=torch.arange(90) // 9).threshold
    assert few > plain
    with pytest.raises(PreimageError, match=r"each of the 90 images .* found 3"):
        detector.fit(known, reference=known, films=torch.arange(3))


def test_held_out_images_are_changed_as_in_training_to_be_unfamiliar(shared):
    data = load(str(shared / "bands.npz"), "train")
    training = replace(TRAINING, augmentation=Augmentation(shift=2))
    split = split_up(data, None, 20, training, seen=True)
    assert torch.equal(split.validation.labels, split.unfamiliar.labels)
    assert not torch.equal(split.validation.images, split.unfamiliar.images)
    same = split_up(data, None, 20, TRAINING, seen=True)  # which changes nothing
    assert torch.equal(same.validation.images, same.unfamiliar.images)
    new = split_up(data, None, 20, training, seen=False)
    assert new.unfamiliar is new.validation  # nothing has seen them: they need not be changed
    assert torch.equal(new.validation.images, split.validation.images)


def test_images_that_are_given_as_held_out_guard_and_choose_the_threshold_as_they_are(shared):
    data = load(str(shared / "bands.npz"), "train")
    new = load(str(shared / "bands.npz"), "test")
    training = replace(TRAINING, augmentation=Augmentation(shift=2))
    some = data.subset(slice(0, 5))
    both = replace(
        new,
        images=torch.cat([some.images, new.images]),
        labels=torch.cat([some.labels, new.labels]),
    )
    hardened = harden(data, SMALL, training, heldout=both)
    split = hardened.split
    assert len(split.fit) == len(data)
    assert torch.equal(split.validation.images, new.images)  # those that are trained on are not
    assert split.unfamiliar is split.validation
    assert hardened.kept.valid_accuracy == pytest.approx(accuracy_on(hardened.classifier, new))


def test_held_out_images_that_say_nothing_are_one_sentence(shared):
    data = load(str(shared / "bands.npz"), "train")
    with pytest.raises(PreimageError, match=r"at least 4 held-out .* found 0 of 240"):
        split_up(data, data, 20, TRAINING, seen=True)
    larger = load(str(shared / "bands.npz"), "test", spec=ImageSpec(1, 10, 10))
    with pytest.raises(PreimageError, match=r"held-out images 1x8x8 of 3.*found 1x10x10 of 3"):
        split_up(data, larger, 20, TRAINING, seen=True)


def test_a_detector_takes_batches_with_labels_as_pytorch_ood_does(shared):
    detector = Detector.load(shared / "hard")
    known = load(str(shared / "bands.npz"), "test")
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(known.floats(), known.labels), batch_size=16
    )
    by_loader = dict(detector.fit(loader).thresholds)
    assert by_loader == pytest.approx(detector.fit(known.floats()).thresholds)


def test_images_of_batches_with_negative_labels_are_no_known_ones(shared):
    """As in pytorch-ood, where -1 marks what is out-of-distribution."""
    detector = Detector.load(shared / "hard")
    known = load(str(shared / "bands.npz"), "test")
    images, labels = known.floats(), known.labels
    wanted = dict(detector.fit([(images, labels)]).thresholds)
    strange, none = 1 - images[:15], torch.full((15,), -1)
    mixed = [(torch.cat([strange, images]), torch.cat([none, labels])), (strange, none)]
    assert detector.fit(mixed).thresholds == pytest.approx(wanted)
    with pytest.raises(PreimageError, match=r"at least 4 images .* found 0"):
        detector.fit([(strange, none)])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda d: d.predict(torch.rand(2, 3, 8, 8)), r"expected images \(B, 1, 8, 8\)"),
        (lambda d: d.fit(torch.rand(3, 1, 8, 8)), "at least 4 images"),
        (lambda d: d.fit(torch.rand(9, 1, 8, 8), 0.0), "above 0 and up to 1, found 0"),
        (lambda d: Detector(d.classifier).predict(torch.rand(2, 1, 8, 8)), "call fit first"),
        (lambda d: Detector(d.classifier).is_ood(torch.rand(2)), "call fit first"),
        (lambda d: Detector(d.classifier).to_bytes(), "pass recipe="),
        (lambda d: Detector(d.classifier, "nonsense"), "a score out of"),
        (lambda d: Detector.load("nowhere"), "expected a detector file"),
    ],
)
def test_what_a_detector_cannot_do_is_one_sentence(shared, call, said):
    with pytest.raises(PreimageError, match=said):
        call(Detector.load(shared / "hard"))


def band_reader():
    """A classifier by hand: features are the means of two rows each, the last is of no class."""
    rows = torch.eye(4).repeat_interleave(16, 1) / 16
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False), nn.Linear(4, 3))
    with torch.no_grad():
        network[1].weight.copy_(rows)
        network[2].weight.copy_(9 * torch.eye(3, 4))
        network[2].bias.zero_()
    return Classifier(network.eval(), ImageSpec(1, 8, 8))


@pytest.mark.parametrize("name", baseline_names())
def test_a_baseline_is_larger_for_what_is_unknown(shared, name):
    plain = band_reader()
    before = {key: t.clone() for key, t in plain.network.state_dict().items()}
    train, test = (load(str(shared / "bands.npz"), split) for split in ("train", "test"))
    scorer = fit_baseline(name, Fitted(plain, train))
    unknown = 0.2 * test.floats()[:40]
    unknown[:, :, 6:] += 0.6  # bright where no class is
    scores = [scorer(images, predict(plain, images)) for images in (test.floats(), unknown)]
    assert [len(part) for part in scores] == [90, 40]
    assert separation(*scores).auroc > 0.9
    after = plain.network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_baseline_without_a_last_linear_layer_is_one_sentence(shared):
    class Scaled(nn.Module):
        def logits_and_features(self, images):
            features = images.flatten(1)[:, :4]
            return features[:, :3], features

        def forward(self, images):
            return self.logits_and_features(images)[0]

    train = load(str(shared / "bands.npz"), "train")
    fitted = Fitted(Classifier(Scaled(), ImageSpec(1, 8, 8)), train)
    with pytest.raises(PreimageError, match="leave out vim and react"):
        fit_baseline("vim", fitted)


# --- commands -------------------------------------------------------------------------------


def test_train_leaves_a_detector_and_a_page(shared):
    result = json.loads((shared / "hard" / "metrics.json").read_text())
    assert result["rounds"] == 3 and result["test_accuracy"] > 0.8
    page = (shared / "hard" / "garbage.html").read_text()
    assert "Round 3" in page and "Noise" in page and "http" not in page.replace("xmlns", "")


def test_eval_records_every_method_on_every_set(capsys, shared):
    status, out, err = evaluate(
        capsys, shared, "--ood", shared / "other", "--plain", shared / "plain"
    )
    assert status == 0, err
    result = json.loads(out)
    fields = (
        *("id", "ood", "real", "seed", "method", "score", "auroc", "aupr_in", "aupr_out"),
        *("fpr95", "garbage_share", "id_accuracy", "id_accuracy_plain", "id_garbage_share"),
        "seconds",
    )
    for record in result["records"]:
        assert set(fields) <= set(record)
        assert all(0 <= record[name] <= 1 for name in ("auroc", "fpr95", "garbage_share"))
    methods = {record["method"] for record in result["records"]}
    assert methods == {"preimage", *baseline_names()}
    sets = {record["ood"]: record["real"] for record in result["records"]}
    assert sets["other"] is True and sets["synthetic:blobs"] is False
    ours = {
        r["ood"]: r["auroc"]
        for r in result["records"]
        if (r["method"], r["score"]) == ("preimage", "combined")
    }
    assert ours["other"] > 0.9 and ours["synthetic:gaussian"] > 0.9
    page = (Path("eval") / "ood.html").read_text()
    assert "The most confident mistakes" in page and "<svg" in page


def test_the_page_shows_both_of_two_sets_that_have_one_name(capsys, shared, tmp_path):
    twin = shutil.copytree(shared / "other", tmp_path / "twin" / "other")
    status, out, err = evaluate(capsys, shared, "--ood", shared / "other", twin, "--no-synthetic")
    assert status == 0, err
    page = (Path("eval") / "ood.html").read_text()
    assert page.count("taken for known</div>") == 2
    names = {record["ood"] for record in json.loads(out)["records"]}
    assert names == {"other", str(twin)}


def test_eval_is_made_once(capsys, shared):
    first = evaluate(capsys, shared, "--ood", shared / "other", "--no-synthetic")
    again = evaluate(capsys, shared, "--ood", shared / "other", "--no-synthetic")
    assert first[:2] == again[:2]


def test_eval_without_a_plain_classifier_says_what_is_left_out(capsys, shared):
    status, out, err = evaluate(capsys, shared, "--ood", shared / "other", "--no-synthetic")
    assert status == 0 and "baselines are left out" in err
    assert {record["method"] for record in json.loads(out)["records"]} == {"preimage"}


def test_eval_of_a_plain_classifier_measures_baselines(capsys, shared):
    status, out, err = run(
        capsys,
        *("ood", "eval", shared / "plain", "--id", shared / "bands.npz", "--no-synthetic"),
        *("--ood", shared / "other", "--baselines", "msp", "knn", "--json", "--out", "e"),
    )
    assert status == 0 and "has no garbage class" in err
    assert {record["method"] for record in json.loads(out)["records"]} == {"msp", "knn"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ood", "BANDS"], "other data than --id"),
        (["--no-synthetic"], "found neither --ood nor --synthetic"),
        (["--ood", "nowhere"], "there is no image set 'nowhere'"),
        (["--most", "1"], "expected --most of at least 2"),
        (["--plain", "mnist"], "a plain classifier of images 1x8x8"),
        (["--plain", "PLAIN", "--baselines", "x"], "found no method|a baseline out of"),
    ],
)
def test_bad_input_to_eval_is_one_sentence(capsys, shared, arguments, said):
    places = {"BANDS": shared / "bands.npz", "PLAIN": shared / "plain"}
    status, _, err = evaluate(capsys, shared, *(places.get(a, a) for a in arguments), out="bad")
    assert status == (0 if "x" in arguments else 2)
    assert re.search(said, " ".join(err.split())) and "Traceback" not in err


def test_an_id_set_of_other_classes_is_one_sentence(capsys, shared, tmp_path):
    images, labels = tiny.bands(40)
    np.savez(tmp_path / "two.npz", images=images, labels=labels % 2)
    status, _, err = run(capsys, "ood", "eval", shared / "hard", "--id", tmp_path / "two.npz")
    assert status == 2 and "known images of 3 classes" in " ".join(err.split())


def test_score_reads_files_and_folders_and_reports_what_it_cannot_read(capsys, shared, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "grey.png")
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / "colour.jpg")
    (folder / "broken.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "small.png")
    (folder / "link.png").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.png")  # opening it would wait for ever
    (folder / "notes.txt").write_text("no image at all")
    other = shared / "other" / "00.png"
    status, out, err = run(capsys, "ood", "score", shared / "hard", folder, other, "--json")
    assert status == 0, err
    result = json.loads(out)
    assert result["images"] == 3 and result["unreadable"] == 4
    assert [Path(row["file"]).name for row in result["scores"]] == [
        "colour.jpg",
        "grey.png",
        "00.png",
    ]
    said = "".join(err.split())
    assert all(f"{name}.png" in said for name in ("broken", "small", "link", "pipe"))
    assert set(result["scores"][0]) == {"file", "score", "ood", "garbage", "class", "confidence"}


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_score_writes_a_file(capsys, shared, kind):
    out = Path(f"scores.{kind}")
    status, _, err = run(capsys, "ood", "score", shared / "hard", shared / "other", "--out", out)
    assert status == 0, err
    with out.open() as file:
        rows = list(csv.DictReader(file)) if kind == "csv" else json.load(file)
    assert len(rows) == 30
    image = load(str(shared / "other"), "test", spec=ImageSpec(1, 8, 8), labelled=False).floats()
    wanted = Detector.load(shared / "hard").predict(image)
    assert [float(row["score"]) for row in rows] == pytest.approx(wanted.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["HARD", "nowhere.png"], "expected an image or a folder, found no 'nowhere.png'"),
        (["HARD", "empty"], "expected images in the folder"),
        (["HARD", "broken.png"], "at least one image that can be read"),
        (["nowhere", "broken.png"], "expected a detector file"),
        (["HARD", "OTHER", "--out", "scores.txt"], "end in .csv or .json"),
    ],
)
def test_bad_input_to_score_is_one_sentence(capsys, shared, arguments, said):
    Path("empty").mkdir()
    Path("broken.png").write_bytes(b"nothing")
    places = {"HARD": shared / "hard", "OTHER": shared / "other"}
    status, _, err = run(capsys, "ood", "score", *(places.get(a, a) for a in arguments))
    assert status == 2 and said in " ".join(err.split()) and "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--share", "0"], "expected --share"),
        (["--noise", "0"], "expected --noise of at least 1"),
        (["--garbage", "10", "--noise", "20"], "expected --garbage of at least 20"),
        (["--tpr", "1.5"], "expected --tpr above 0 and up to 1"),
        (["--model", "mnist"], "images 1x28x28 of 10 classes"),
        (["--heldout", "nowhere"], "there is no image set 'nowhere'"),
        (["--heldout", "TWO"], "held-out images 1x8x8 of 3 classes"),
        (["--model", "nonsense"], "found the unknown name 'nonsense'"),
        (["--checkpoint", "nothere.pt"], "no --checkpoint, found one; leave it out, as without"),
        (["--class-names", "a,b,c"], "expected no --class-names"),
        (["--model", "mnist", "--arch", "resnet"], "no --arch, found one; leave it out, which is"),
        (["--model", "mnist", "--width", "5"], "expected no --width"),
    ],
)
def test_bad_input_to_train_is_one_sentence(capsys, shared, arguments, said):
    pixels, labels = tiny.bands(30)
    np.savez("two.npz", images=pixels, labels=labels % 2)
    arguments = ["two.npz" if argument == "TWO" else argument for argument in arguments]
    flags = FLAGS[2:8] if "--model" in arguments else FLAGS[:8]  # a model has its width
    status, _, err = run(
        capsys, "ood", "train", shared / "bands.npz", "--out", "bad", *flags, *arguments
    )
    assert status == 2 and said in " ".join(err.split()) and "Traceback" not in err


def test_train_says_which_held_out_images_are_no_test(capsys, shared):
    pixels, labels = tiny.bands(90, seed=1)  # the test split
    (seen, theirs), data = tiny.bands(5), shared / "bands.npz"
    np.savez("own.npz", images=np.concatenate([seen, pixels]), labels=[*theirs, *labels])
    arguments = tiny.ood_arguments(data, "held", "--heldout", "own.npz", "--json")
    status, out, err = run(capsys, *arguments)
    said = " ".join(err.split())
    assert status == 0, err
    assert "5 held-out images are training images as well and are left out" in said
    assert "held-out images are test images as well" in said
    result = json.loads(out)
    assert result["valid_accuracy"] == pytest.approx(result["test_accuracy"])


def test_train_from_a_named_classifier_makes_a_detector_that_loads(capsys, shared):
    status, _, err = run(
        capsys,
        *("ood", "train", shared / "bands.npz", "--model", shared / "plain", "--out", "more"),
        *FLAGS[2:8],
        *FLAGS[8:],
        "--epochs",
        "2",
        "--head",
        "beside",
    )
    assert status == 0, err
    detector = Detector.load("more")
    assert detector.class_names == ("0", "1", "2")
    status, out, err = run(
        capsys,
        *("ood", "eval", "more", "--ood", shared / "other", "--no-synthetic", "--json"),
        *("--baselines", "msp", "--out", "e2"),
    )
    assert status == 0, err  # known data and the plain classifier are those of the run
    beside = json.loads(out)
    assert {record["method"] for record in beside["records"]} == {"preimage", "msp"}
    status, out, err = run(
        capsys,
        *("ood", "eval", "more", "--ood", shared / "other", "--no-synthetic", "--json"),
        *("--baselines", "--out", "e3"),
    )
    assert status == 0 and "left out" not in err
    alone = json.loads(out)
    assert {record["method"] for record in alone["records"]} == {"preimage"}
    assert alone["id_accuracy_plain"] == beside["id_accuracy_plain"] is not None


def test_baselines_are_not_fitted_to_the_images_that_they_are_measured_on(capsys, shared):
    images, labels = tiny.bands(90)
    np.savez("whole.npz", images=images, labels=labels)
    status, out, err = run(
        capsys,
        *("ood", "eval", shared / "plain", "--id", "whole.npz", "--ood", shared / "other"),
        *("--most", "30", "--json", "--no-synthetic", "--out", "eval"),
    )
    result = json.loads(out)
    assert status == 0
    assert {r["method"] for r in result["records"]} == {"msp", "maxlogit", "energy", "odin"}
    assert "fitted to training images" in result["left_out"]["knn"] and "knn is left out" in err


def test_one_broken_baseline_costs_no_other(shared, monkeypatch):
    def broken(_):
        raise ZeroDivisionError("no")

    monkeypatch.setitem(baselines._BASELINES, "knn", broken)
    data = load(str(shared / "bands.npz"), "train")
    fitted = Fitted(load_classifier(str(shared / "plain")), data)
    scorers, left_out = baselines.fit_baselines(["knn", "energy"], fitted)
    assert list(scorers) == ["energy"] and left_out == {"knn": "ZeroDivisionError: no"}


def test_a_baseline_that_breaks_when_it_scores_costs_no_other_either(shared):
    class NoGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("no way back")

    class Hard(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(64, 2)

        def forward(self, x):
            return self.last(NoGradient.apply(x.flatten(1)))

    train = load(str(shared / "bands.npz"), "train")
    fitted = Fitted(Classifier(Hard(), ImageSpec(1, 8, 8)), train)
    scorers, left_out = baselines.fit_baselines(["odin", "energy"], fitted)
    assert list(scorers) == ["energy"] and "no way back" in left_out["odin"]


def test_score_takes_names_that_are_no_text(capsys, shared):
    folder = Path("names")
    folder.mkdir()
    name = os.fsdecode(b"caf\xe9.png")
    shutil.copy(shared / "other" / "00.png", folder / name)
    (folder / "notes.txt").write_text("no image")
    for out in ("scores.csv", "scores.json"):
        status, _, err = run(capsys, "ood", "score", shared / "hard", folder, "--out", out)
        assert status == 0 and "1 files in 'names' are not named as images" in err
    assert b"caf\xe9.png" in Path("scores.csv").read_bytes()
    (row,) = json.loads(Path("scores.json").read_bytes())
    assert os.fsencode(row["file"]).endswith(b"caf\xe9.png")
    status, out, _ = run(capsys, "ood", "score", shared / "hard", folder, "--json")
    assert status == 0 and json.loads(out)["scores"][0]["file"].endswith(name)
    assert run(capsys, "ood", "score", shared / "hard", folder)[0] == 0


def test_score_tells_first_that_it_cannot_write(capsys, shared, monkeypatch):
    monkeypatch.setattr(Detector, "load", None)  # would fail, if it were reached
    Path("scores.csv").mkdir()
    status, _, err = run(
        capsys, "ood", "score", shared / "hard", shared / "other", "--out", "scores.csv"
    )
    assert status == 2 and "found the folder 'scores.csv'" in err


def test_a_detector_of_a_network_that_changed_since_is_one_sentence(shared, tmp_path):
    detector = Detector.load(shared / "hard")
    detector.recipe = replace(detector.recipe, width=8)
    other = Detector.load(shared / "hard")
    other.recipe = detector.recipe
    other.save(tmp_path / "detector.safetensors")
    before = torch.random.get_rng_state()
    with pytest.raises(PreimageError, match="has other layers by now"):
        Detector.load(tmp_path / "detector.safetensors")
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_fall_in_the_first_epoch_counts_with_images_it_has_not_seen(shared):
    data = load(str(shared / "bands.npz"), "train")
    heldout = load(str(shared / "bands.npz"), "test")
    start = load_classifier(str(shared / "plain"))
    wild = replace(TRAINING, lr=3.0, epochs=3)
    with pytest.raises(PreimageError, match=r"classifier's own .* found none in 2"):
        harden(data, replace(SMALL, margin=0.01, patience=1), wild, start=start, heldout=heldout)


def test_a_trained_classifier_gets_few_rounds_with_either_head(shared):
    data = load(str(shared / "bands.npz"), "train")
    start = load_classifier(str(shared / "plain"))
    many = replace(TRAINING, epochs=5)
    for head in ("extend", "beside"):
        hardened = harden(data, replace(SMALL, head=head), many, start=start)
        assert hardened.pool.last_round == 2

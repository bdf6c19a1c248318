"""Thresholds for a share of known images that is asked for after the training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import tiny
from preimage.data import load
from preimage.errors import PreimageError
from preimage.ood import Detector
from preimage.ood.detector import DETECTOR_FILE
from preimage.ood.threshold import HeldOut, threshold_at
from preimage.runtime import stream
from preimage.tensors import pack, unpack
from tiny import evaluate, run

pytestmark = pytest.mark.usefixtures("workplace")


def written_before(source, target):
    """The detector file of a version that kept neither held-out scores nor their share."""
    form = "preimage-detector-2"
    header, state = unpack(source, form, "detector", "")
    del header["tpr"]
    kept = {name: t for name, t in state.items() if not name.startswith("held_out.")}
    assert len(kept) < len(state)
    target.write_bytes(pack(kept, header))


@pytest.fixture
def old(shared, tmp_path):
    """A run of such a version, trained with another share than the usual one."""
    folder = shutil.copytree(shared / "hard", tmp_path / "old")
    written_before(shared / "hard" / DETECTOR_FILE, folder / DETECTOR_FILE)
    settings = json.loads((folder / "config.json").read_text())
    settings["config"]["tpr"] = 0.6
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("films", [None, torch.arange(90) // 9])
def test_a_share_set_later_is_as_one_chosen_at_once(shared, tmp_path, films):
    known = load(str(shared / "bands.npz"), "test")
    given = {"reference": known, "films": films}
    hard = Detector.load(shared / "hard")
    hard.fit(known, 0.99, **given).save(tmp_path / "later.safetensors")
    later = Detector.load(tmp_path / "later.safetensors")
    assert later.tpr == 0.99 and later.thresholds == hard.thresholds
    later.set_tpr(0.7).save(tmp_path / "again.safetensors")
    at_once = hard.fit(known, 0.7, **given)
    for detector in (later, Detector.load(tmp_path / "again.safetensors")):
        assert detector.tpr == 0.7 and detector.thresholds == at_once.thresholds
    assert later.thresholds_at(0.99)["combined"] > later.threshold
    assert later.tpr == 0.7  # asking changes nothing


def test_held_out_films_are_drawn_again_for_every_share():
    scores = torch.randn(200, generator=stream("held out"))
    films = torch.arange(200) // 20
    alone, drawn = (HeldOut({"x": scores}, given).thresholds(0.8)["x"] for given in (None, films))
    assert alone == float(threshold_at(scores, 0.8)) < drawn


def test_a_share_that_cannot_be_set_leaves_the_thresholds_as_they_were(shared, old):
    detector = Detector.load(shared / "hard")
    before = dict(detector.thresholds)
    with pytest.raises(PreimageError, match=r"above 0 and up to 1, found 1\.2"):
        detector.set_tpr(1.2)
    assert detector.thresholds == before and detector.tpr == 0.99
    older = Detector.load(old)
    assert older.thresholds == before and older.tpr is None and not older.can_set_tpr
    with pytest.raises(PreimageError, match=r"--tpr.*train the detector anew"):
        older.set_tpr(0.98)
    with pytest.raises(PreimageError, match="call fit first"):
        Detector(detector.classifier).set_tpr(0.98)


def test_score_and_eval_take_a_share_without_training_again(capsys, shared):
    shares, thresholds = [], []
    for tpr in ("0.6", "1"):
        status, out, err = run(
            capsys,
            *("ood", "score", shared / "hard", shared / "other", "--json", "--tpr", tpr),
        )
        assert status == 0, err
        thresholds.append(json.loads(out)["threshold"])
        status, out, err = evaluate(
            capsys, shared, "--no-synthetic", "--ood", shared / "other", "--tpr", tpr, out=tpr
        )
        assert status == 0, err
        result = json.loads(out)
        (ours,) = (r for r in result["records"] if r["score"] == "combined")
        assert result["tpr"] == ours["tpr"] == float(tpr)
        shares.append(ours["id_garbage_share"])
    detector = Detector.load(shared / "hard")
    assert thresholds == [detector.set_tpr(tpr).threshold for tpr in (0.6, 1)]
    assert shares[0] > shares[1]
    # another share is another evaluation, of the same detector
    status, _, err = evaluate(
        capsys, shared, "--no-synthetic", "--ood", shared / "other", out="0.6"
    )
    said = " ".join(err.split())
    assert status == 2 and "tpr 0.6 instead of null" in said and "weights" not in said


def test_eval_records_the_shares_at_98_and_those_of_the_largest_logit(capsys, shared, old):
    status, out, err = evaluate(
        capsys,
        shared,
        *("--no-synthetic", "--ood", shared / "other", "--plain", shared / "plain"),
        *("--baselines", "energy", "--tpr", "0.98", "--most", "90"),
    )
    assert status == 0, err
    records = json.loads(out)["records"]
    for record in records:
        for name in ("garbage_share", "id_garbage_share"):
            assert record[f"{name}_98"] == record[name]
    spec = Detector.load(shared / "hard").spec
    known = load(str(shared / "bands.npz"), "test")
    other = load(str(shared / "other"), "test", spec=spec, labelled=False)
    classifier = Detector.load(shared / "hard").classifier.eval()
    for name, images in (("id_argmax_share", known), ("argmax_share", other)):
        right = float((classifier(images.floats()).logits.argmax(1) == 3).double().mean())
        shares = {r["method"]: r[name] for r in records}
        assert shares == {"preimage": pytest.approx(right), "energy": None}
    assert "the classifier itself puts in garbage" in (Path("eval") / "ood.html").read_text()
    # at another share the two thresholds differ; a file that keeps no scores has the one alone
    for model, more in ((shared / "hard", ("--tpr", "0.6")), (old, ())):
        status, out, err = run(
            capsys,
            *("ood", "eval", model, "--id", shared / "bands.npz", "--ood", shared / "other"),
            *("--no-synthetic", "--json", "--out", f"eval-of-{model.name}", *more),
        )
        assert status == 0, err
        (ours,) = (r for r in json.loads(out)["records"] if r["score"] == "combined")
        assert (ours["id_garbage_share_98"] is not None) == (model != old)
        if model != old:
            assert ours["id_garbage_share_98"] < ours["id_garbage_share"]
    status, out, _ = run(
        capsys,
        *("ood", "eval", shared / "hard", "--id", shared / "bands.npz", "--ood", shared / "other"),
        *("--no-synthetic", "--out", "eval-of-hard", "--tpr", "0.6"),
    )
    assert status == 0 and "images beyond one that lets 98 % through" in out
    assert "images that the classifier itself puts in garbage" in out


@pytest.mark.parametrize("command", ["score", "eval"])
def test_a_share_that_cannot_be_had_is_one_sentence(capsys, shared, old, command):
    for model, tpr, said in (
        (shared / "hard", "1.5", "expected --tpr"),
        (old, "0.98", "train the detector anew"),
    ):
        more = {
            "score": [shared / "other"],
            "eval": ["--id", shared / "bands.npz", "--out", "eval"],
        }[command]
        status, _, err = run(capsys, "ood", command, model, *more, "--tpr", tpr)
        assert status == 2 and said in " ".join(err.split()) and "Traceback" not in err
    assert not Path("eval").exists()


def test_baselines_let_through_the_share_that_is_in_force(capsys, shared, old):
    """What was asked for, or the detector's own, which for older ones the run folder tells."""
    trained = tiny.ood_arguments(shared / "bands.npz", "new", "--tpr", "0.6")
    assert run(capsys, *trained)[0] == 0
    cases = [("new", [], 0.6), (old, [], 0.6), (shared / "hard", ["--tpr", "0.6"], 0.6)]
    cases += [(shared / "hard", [], 0.99), (shared / "plain", ["--tpr", "0.6"], 0.6)]
    for number, (model, more, tpr) in enumerate(cases):
        status, out, err = run(
            capsys,
            *("ood", "eval", model, "--id", shared / "bands.npz", "--ood", shared / "other"),
            *("--no-synthetic", "--baselines", "energy", "--out", f"eval{number}", "--json"),
            *([] if model == shared / "plain" else ["--plain", shared / "plain"]),
            *more,
        )
        assert status == 0, err
        (energy,) = (r for r in json.loads(out)["records"] if r["method"] == "energy")
        assert 1 - tpr - 1 / 90 <= energy["id_garbage_share"] <= 1 - tpr + 1e-9

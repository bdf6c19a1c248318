"""The device that images are scored on."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

import preimage.ood.evaluation
from preimage.jobs import float32
from preimage.ood import Detector
from pretend import GPU, PretendedGPU
from tiny import evaluate, run

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture
def used(monkeypatch):
    """Where detector and plain classifier were each time that they were asked."""
    places = []
    evidence, predict = Detector.evidence, preimage.ood.evaluation.predict

    def of_detector(self, images):
        places.append(self.classifier.mean.device)
        return evidence(self, images)

    def of_plain(classifier, images):
        places.append(classifier.mean.device)
        return predict(classifier, images)

    monkeypatch.setattr(Detector, "evidence", of_detector)
    monkeypatch.setattr(preimage.ood.evaluation, "predict", of_plain)
    return places


def on_gpu(monkeypatch):
    monkeypatch.setattr(float32, "make_fabric", lambda _: SimpleNamespace(device=GPU))
    return PretendedGPU()


def test_score_works_where_it_is_told(capsys, shared, used, monkeypatch):
    arguments = ("ood", "score", shared / "hard", shared / "other", "--json")
    here = run(capsys, *arguments, "--accelerator", "cpu")
    assert here[0] == 0 and {place.type for place in used} == {"cpu"}
    used.clear()
    with on_gpu(monkeypatch):
        there = run(capsys, *arguments)
    assert there[0] == 0 and set(used) == {GPU}, there[2]
    scores = [[row["score"] for row in json.loads(out)["scores"]] for _, out, _ in (here, there)]
    assert len(scores[0]) == 30 and scores[1] == pytest.approx(scores[0], abs=1e-4)


def test_eval_works_where_it_is_told(capsys, shared, used, monkeypatch):
    some = ("--ood", shared / "other", "--no-synthetic", "--plain", shared / "plain")
    here = evaluate(capsys, shared, *some, "--accelerator", "cpu", out="here")
    assert here[0] == 0 and {place.type for place in used} == {"cpu"}
    used.clear()
    with on_gpu(monkeypatch):
        there = evaluate(capsys, shared, *some, out="there")
    assert there[0] == 0 and set(used) == {GPU}, there[2]
    figures = [
        {(r["method"], r["score"]): r["auroc"] for r in json.loads(out)["records"]}
        for _, out, _ in (here, there)
    ]
    assert len(figures[0]) == 13  # no baseline was left out
    assert figures[1] == pytest.approx(figures[0], abs=1e-3)


@pytest.mark.parametrize("command", ["score", "eval"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--devices", "2"], "expected one device for scoring, found --devices 2"),
        (["--precision", "bf16-mixed"], "scores and thresholds are float32, found bf16-mixed"),
        (["--accelerator", "cuda"], "expected 1 CUDA device(s)"),
    ],
)
def test_a_device_that_cannot_be_had_is_one_sentence(
    capsys, shared, monkeypatch, command, arguments, said
):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    more = [shared / "other"] if command == "score" else ["--id", shared / "bands.npz"]
    status, _, err = run(capsys, "ood", command, shared / "hard", *more, *arguments)
    assert status == 2 and said in " ".join(err.split()) and "Traceback" not in err

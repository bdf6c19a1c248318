"""The audit end to end, on networks that take a second a part."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import preimage
import preimage.jobs.ood_train
import tiny
from preimage.auditing import acceptance, detection, evidence, job, leaking
from preimage.auditing.accuracy import balanced
from preimage.auditing.answers import premise
from preimage.auditing.budget import parse_budget
from preimage.auditing.context import wilson
from preimage.auditing.figures import SECTIONS
from preimage.auditing.leaking import _first_layer
from preimage.auditing.page import _limits as page_limits
from preimage.auditing.parts import Found, LeftOutError, Part, parts
from preimage.classifier import Classifier
from preimage.cli import main
from preimage.config import PRESETS, Runtime
from preimage.data import ImageSet
from preimage.errors import PreimageError
from preimage.ood import baselines
from preimage.runtime import precision_name
from preimage.types import ImageSpec
from pretend import GPU, PretendedGPU

pytestmark = pytest.mark.usefixtures("workplace")
room = detection._room
"""As it is where no test shortens it."""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """So much work, whatever the machine's speed."""
    monkeypatch.setattr(acceptance, "_steps", lambda *_: 60)
    monkeypatch.setattr(acceptance, "_FEW", 300)
    monkeypatch.setattr(acceptance, "_NOISE", 60)
    monkeypatch.setattr(leaking, "_steps", lambda *_: 100)
    monkeypatch.setattr(detection, "_room", lambda *_: 30)
    monkeypatch.setattr(detection, "_hardening_seconds", lambda *_: 0.0)
    monkeypatch.setattr(preimage.jobs.ood_train, "_FEW_STEPS", 4)
    monkeypatch.setattr(evidence, "_unit_count", lambda *_: 2)
    monkeypatch.setattr(evidence, "_BOUNDARY_STEPS", 5)
    monkeypatch.setattr(evidence, "_MAP_POINTS", 20)


@pytest.fixture
def data():
    return str(tiny.write_npz("bands.npz", train=90, test=60))


def audit(capsys, *more, model="tiny:build", out="run"):
    capsys.readouterr()
    arguments = ("audit", model, *tiny.IMAGE, "--budget", "60s", "--out", out, "--json", *more)
    status = main([str(part) for part in arguments])
    text, err = capsys.readouterr()
    return status, json.loads(text) if status in (0, 3) else None, " ".join(err.split())


def only(monkeypatch, *names):
    """Audits of these parts."""
    chosen = [part for part in parts() if part.name in names]
    monkeypatch.setattr(job, "parts", lambda: chosen)


def state(record, name):
    return next(part for part in record["parts"] if part["name"] == name)


def test_audit_answers_all_three(capsys, data):
    np.savez("other.npz", **_noise())
    status, record, _ = audit(capsys, "--data", data, "--ood", "other.npz")
    assert status == 0
    assert [part["name"] for part in record["parts"]] == [part.name for part in parts()]
    # it has no second classifier to be judged by
    assert record["accept"]["evaluator_accuracy"] is None
    assert record["accept"]["noise_images"] == 7 * 60
    assert record["ood"]["sets"] == ["other"] and 0 <= record["ood"]["auroc"] <= 1
    assert record["leak"]["verdict"] in ("leaks", "no evidence of a leak", "can't tell")
    for part in record["parts"]:
        assert (part["state"] == "done") == (part["reason"] is None)
    assert state(record, "hardening")["state"] == "done"
    assert record["ood"]["hardened_auroc"] is not None
    hardened = json.loads(Path("run", "hardened", "config.json").read_text(encoding="utf-8"))
    assert hardened["config"]["harden"]["head"] == "extend"
    kept = json.loads(Path("run", job.RECORD_FILE).read_text())
    assert kept == {name: record[name] for name in kept}
    assert {name: set(record[name]) for name in SECTIONS} == {
        k: set(v) for k, v in SECTIONS.items()
    }
    page = Path("run", job.PAGE_FILE).read_text()
    assert page.count("<img") > 50 and "Still at work" not in page
    assert record["answers"][2]["answer"].lower() == record["leak"]["verdict"]
    assert record["leak"]["first_layer"] == "dense"


def test_hardening_that_does_not_fit_is_left_out_and_says_so(capsys, data, monkeypatch):
    monkeypatch.setattr(detection, "_hardening_seconds", lambda *_: 1e4)
    status, record, _ = audit(capsys, "--data", data, "--fail-on", "ood.hardened_auroc<0.5")
    assert status == 3 and "not measured" in record["failed"][0]
    assert "larger --budget" in state(record, "hardening")["reason"]


def test_unknown_images_that_cannot_be_read_are_told_and_the_rest_is_measured(
    capsys, data, monkeypatch
):
    only(monkeypatch, "detection")
    monkeypatch.setattr(detection, "BASELINES", ("msp",))
    Path("more").mkdir()
    for i, image in enumerate(_noise()["images"]):
        Image.fromarray(image).save(f"more/{i}.png")
    Path("more", "broken.png").write_bytes(b"no image")
    Image.fromarray(tiny.bands(60, seed=1)[0][59]).save("more/known.png")
    status, record, err = audit(capsys, "--data", data, "--ood", "more")
    assert status == 0 and record["ood"]["sets"] == ["more"]
    page = " ".join(Path("run", job.PAGE_FILE).read_text(encoding="utf-8").split())
    for said in (page, " ".join(err.split())):
        assert "more: one image cannot be read and is left out: " in said and "broken.png" in said
        assert "more: one image is among the known ones as well, to the byte, and left out" in said


def test_an_exported_program_is_hardened_by_a_head_beside_it(capsys, data, monkeypatch):
    only(monkeypatch, "hardening", "detection")
    monkeypatch.setattr(detection, "BASELINES", ("msp",))
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(fitted(), (torch.rand(2, 1, 8, 8),), dynamic_shapes=shapes)
    torch.export.save(program, "net.pt2")
    status, record, _ = audit(capsys, "--data", data, model="net.pt2")
    assert status == 0 and state(record, "hardening")["reason"] is None
    assert record["ood"]["hardened_auroc"] is not None
    page = " ".join(Path("run", job.PAGE_FILE).read_text(encoding="utf-8").split())
    assert "garbage class stands beside the classifier" in page
    settings = json.loads(Path("run", "hardened", "config.json").read_text(encoding="utf-8"))
    assert settings["config"]["harden"]["head"] == "beside"


def test_without_pytorch_ood_its_own_confidence_is_measured_all_the_same(capsys, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_ood.detector", None)  # importing it fails
    only(monkeypatch, "detection")
    status, record, _ = audit(capsys, "--data", data)
    assert status == 0 and state(record, "detection")["state"] == "done"
    assert 0 <= record["ood"]["auroc"] <= 1
    page = " ".join(Path("run", job.PAGE_FILE).read_text().split())
    assert page.count("pip install pytorch-ood") == 1  # one sentence for all of them
    assert "Left out: maxlogit, energy, odin" in page


def _noise():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (60, tiny.SIDE, tiny.SIDE), dtype=np.uint8)
    return {"images": images, "labels": np.zeros(60, np.int64)}


def test_without_data_the_page_says_what_is_missing(capsys):
    status, record, _ = audit(capsys)
    assert status == 0 and record["data"] is None
    assert state(record, "leak")["state"] == "left out"
    assert "--data" in state(record, "leak")["reason"]
    assert [answer["answer"] for answer in record["answers"][1:]] == ["Not measured"] * 2
    assert "Not here" in Path("run", job.PAGE_FILE).read_text()


def test_killed_audit_goes_on_with_the_part_that_it_was_in(capsys, monkeypatch):
    real, calls = job._do, []

    def dies(part, *rest):
        calls.append(part.name)
        if part.name == "boundaries":
            raise KeyboardInterrupt
        return real(part, *rest)

    monkeypatch.setattr(job, "_do", dies)
    capsys.readouterr()
    arguments = ["audit", "tiny:build", *tiny.IMAGE, "--budget", "60s", "--out", "run"]
    assert main(arguments) == 130
    page = Path("run", job.PAGE_FILE).read_text()
    assert "Still at work" in page and "Inversions by class" in page
    done = list(calls)
    calls.clear()
    usual = precision_name(Runtime())
    other = "32-true" if usual != "32-true" else "bf16-mixed"
    assert main([*arguments, "--precision", other]) == 2
    assert "precision" in capsys.readouterr().err and not calls
    assert main([*arguments, "--overwrite", "--seed", "9" * 20]) == 2
    assert "--seed" in capsys.readouterr().err and not calls and Path("run", job.PAGE_FILE).exists()
    monkeypatch.setattr(
        job, "_do", lambda part, *rest: calls.append(part.name) or real(part, *rest)
    )
    status, record, _ = audit(capsys)
    assert status == 0 and not set(done[:-1]) & set(calls)
    assert calls[0] == "boundaries" and state(record, "boundaries")["state"] == "done"
    calls.clear()
    assert audit(capsys)[1] == record and calls == []


def test_gate_has_a_status_of_its_own_and_files(capsys):
    more = ("--fail-on", "classes==3", "--fail-on", "accept.confidence<0.01", "--junit", "j.xml")
    status, record, _ = audit(capsys, *more, "--markdown", "s.md")
    assert status == 3 and record["failed"] == ["classes==3: measured 3"]
    assert Path("j.xml").read_text().count("<failure") == 1
    assert "classes==3" in Path("s.md").read_text()


def test_gate_files_never_replace_each_other_or_the_audits_own(capsys, monkeypatch):
    only(monkeypatch, "noise")
    for more in (
        ("--junit", "same", "--markdown", "./same"),
        ("--junit", "run/audit.json"),
        ("--markdown", "run/audit.html"),
    ):
        status, _, err = audit(capsys, *more)
        assert status == 2 and "error: expected a file" in err
        assert not Path("same").exists()
        assert audit(capsys)[0] == 0  # makes the audit that the next two would spoil
        assert json.loads(Path("run/audit.json").read_text())["model"]
    assert audit(capsys, "--junit", "run/mine.xml", "--markdown", "s.md")[0] == 0
    assert audit(capsys, "--junit", "run/mine.xml", "--markdown", "s.md")[0] == 0


def test_overwriting_leaves_what_others_put_into_the_inner_runs(capsys, monkeypatch):
    only(monkeypatch, "noise")
    assert audit(capsys)[0] == 0
    before = Path("run/audit.json").read_bytes()
    assert main([*tiny.invert_arguments("run/inversion")]) == 0
    Path("run/inversion/mine.txt").write_text("mine")
    status, _, err = audit(capsys, "--overwrite")
    assert status == 2 and "found 'mine.txt'" in err
    assert Path("run/audit.json").read_bytes() == before
    Path("run/inversion/mine.txt").rename("mine.txt")
    assert audit(capsys, "--overwrite")[0] == 0 and not Path("run/inversion").exists()


@pytest.mark.parametrize("content", ["", "{}", "[]", "{"])
def test_a_part_whose_file_is_damaged_is_done_anew(capsys, monkeypatch, content):
    only(monkeypatch, "noise")
    record = audit(capsys)[1]
    Path("run/part-noise.json").write_text(content)
    Path("run/metrics.json").unlink()
    again = audit(capsys)[1]
    assert again["accept"] == record["accept"] and state(again, "noise")["state"] == "done"


def test_a_damaged_plan_is_told_before_any_part(capsys, monkeypatch):
    only(monkeypatch, "noise")
    audit(capsys)
    Path("run/metrics.json").unlink()
    for content in ("[]", "{"):
        Path("run/plan.json").write_text(content)
        status, _, err = audit(capsys)
        assert status == 2 and "plan.json" in err
    assert audit(capsys, "--overwrite")[0] == 0


class Sometimes(nn.Module):
    """Answers NaN on bright images."""

    def __init__(self):
        super().__init__()
        self.inner = tiny.build()

    def forward(self, images):
        logits = self.inner(images)
        return torch.where(images.mean((1, 2, 3))[:, None] > 0.8, torch.nan, logits)


def test_classifier_that_answers_nan_now_and_then_ends_in_a_page():
    result = preimage.audit(Sometimes().eval(), image=(1, 8, 8), budget="60s", out="run")
    assert result.page.is_file()
    assert result.record["accept"]["noise_share"] is not None
    assert all(part["state"] in ("done", "left out", "failed") for part in result.record["parts"])


class Brittle(nn.Module):
    """Takes no large batch."""

    def __init__(self):
        super().__init__()
        self.inner = tiny.build()

    def forward(self, images):
        if len(images) > 100:
            raise ValueError("too many at once")
        return self.inner(images)


def test_part_that_breaks_does_not_take_the_others_with_it():
    result = preimage.audit(Brittle().eval(), image=(1, 8, 8), budget="60s", out="run")
    failed = [part for part in result.record["parts"] if part["state"] == "failed"]
    assert failed and "ValueError: too many at once" in failed[0]["reason"]
    assert "too many at once" in result.page.read_text()


def test_thousand_classes_leave_a_small_page(monkeypatch):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 1000)).eval()
    result = preimage.audit(network, image=(1, 8, 8), budget="60s", out="run")
    page = result.page.read_text()
    assert len(page) < 10_000_000 and result.record["accept"]["classes_shown"] == 20
    assert "980 more classes are not shown" in page


@pytest.mark.parametrize("model", [tiny.build(), "tiny:build"])
def test_names_with_markup_come_out_as_text(model):
    names = ["<script>alert(1)</script>", "b", "c"]
    result = preimage.audit(model, image=(1, 8, 8), class_names=names, budget="60s", out="run")
    page = result.page.read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_module_is_audited_with_data_and_left_as_it_was(data):
    network = tiny.build()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result = preimage.audit(network, image=(1, 8, 8), data=data, budget="60s", out="run")
    assert result.record["leak"]["verdict"] is not None
    assert "by name" in state(result.record, "hardening")["reason"]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    with pytest.raises(PreimageError, match="image shape"):
        preimage.audit(network)
    other = tiny.build()
    with torch.no_grad():
        other[1].weight.add_(1)
    with pytest.raises(PreimageError, match="another"):
        preimage.audit(other, image=(1, 8, 8), data=data, budget="60s", out="run")


def test_settings_beside_a_name_are_put_to_use(data, monkeypatch):
    only(monkeypatch, "accuracy")
    torch.save(fitted().state_dict(), "weights.pt")
    options = {"image": [1, 8, 8], "checkpoint": Path("weights.pt"), "data": data, "budget": "60s"}
    assert preimage.audit("tiny:build", out="run", **options).record["task"]["works"] == "yes"
    wrong = preimage.audit("tiny:build", mean=[9], std=[1], out="wrong", **options)
    assert wrong.record["task"]["works"] == "no"


@pytest.mark.parametrize(
    ("model", "given", "said"),
    [
        ("tiny:build", {"class_names": ["a,b", "c", "d"]}, "class names without commas"),
        (
            "tiny:build",
            {"class_names": "ab", "image": (1, 8, 8)},
            "expected 3 different class names",
        ),
        ("mnist", {"class_names": "0123456789"}, "no --class-names for 'mnist'"),
        ("mnist", {"mean": (0.5,)}, "no --mean for 'mnist'"),
        ("mnist", {"image": (1, 8, 8)}, "no --image for 'mnist'"),
        ("tiny:build", {"image": (8, 8)}, r"found \(8, 8\); give three"),
        (None, {"mean": (0.5,)}, "no mean beside a Classifier, which has its own"),
        (None, {"class_names": "abc"}, "no class_names beside a Classifier"),
        (None, {"checkpoint": "w.safetensors"}, "no checkpoint beside a Classifier"),
        (nn.Flatten(), {"checkpoint": "w.safetensors"}, "no checkpoint beside a network"),
        (nn.Flatten(), {"classes": 3}, "no classes beside a network"),
    ],
)
def test_settings_that_would_not_be_used_are_refused(model, given, said):
    model = Classifier(tiny.build(), ImageSpec(1, 8, 8)) if model is None else model
    with pytest.raises(PreimageError, match=said):
        preimage.audit(model, **given, out="run")
    assert not Path("run").exists()


@pytest.mark.parametrize("text", ["", "5", "five", "5 minutes", "-5m", "1s", "0h"])
def test_budget_that_cannot_be_is_told(text):
    with pytest.raises(PreimageError, match="expected a"):
        parse_budget(text)


def test_budgets():
    assert [parse_budget(text) for text in ("90s", "5m", " 2H ", "0.5m")] == [90, 300, 7200, 30]


def test_too_little_time_for_an_inversion_is_told_on_the_page(capsys, monkeypatch):
    monkeypatch.setattr(acceptance, "_steps", lambda *_: 3)
    status, record, _ = audit(capsys)
    assert status == 0
    assert "time for 3 steps" in state(record, "inversion")["reason"]
    assert state(record, "gallery")["state"] == "left out"
    assert record["accept"]["noise_share"] is not None


def test_more_time_makes_more_work():
    class Fake:
        inversion_seconds, inversion_room, patient = 0.1, 256, False

    few, many = (acceptance_steps(Fake(), seconds) for seconds in (2.0, 60.0))
    assert 0 < few < many <= PRESETS["natural"].steps
    assert acceptance_steps(Fake(), 1e6) == PRESETS["natural"].steps


def test_a_slow_machine_takes_smaller_batches_so_that_there_are_steps():
    class Slow:
        inversion_seconds, inversion_room, patient = 1.0, 256, False

    batches = [acceptance._batch(Slow(), seconds) for seconds in (1000.0, 200.0, 72.0, 1.0)]
    assert batches == [256, 128, 64, 64]
    assert acceptance_steps(Slow(), 72.0) == 230 and acceptance_steps(Slow(), 250.0) == 200


def test_little_memory_takes_smaller_batches():
    for room, batch in ((1000, 256), (255, 128), (40, 32), (3, 8)):
        context = SimpleNamespace(inversion_seconds=0.001, inversion_room=room)
        assert acceptance._batch(context, 1000.0) == batch


@pytest.mark.parametrize(("cost", "images"), [(1e-4, 500), (1e-2, 125), (1.0, 50)])
def test_a_large_network_is_asked_about_less_noise(cost, images, monkeypatch):
    monkeypatch.setattr(acceptance, "_NOISE", 500)
    assert acceptance._noise_images(SimpleNamespace(predict_seconds=cost), 10.0, 8) == images


def test_too_little_memory_for_a_verdict_is_told(capsys, data, monkeypatch):
    monkeypatch.setattr(leaking, "images_room", lambda *_: 7)
    only(monkeypatch, "leak")
    status, record, _ = audit(capsys, "--data", data)
    assert status == 0
    assert "memory for 7 reconstructions" in state(record, "leak")["reason"]


acceptance_steps = acceptance._steps


def fitted():
    images, labels = (torch.from_numpy(part) for part in tiny.bands(120))
    images = images[:, None].float() / 255
    return tiny.fit(tiny.build(), lambda _: (images, labels), 60)


@pytest.fixture
def many():
    """Test images enough to tell guessing from more."""
    return str(tiny.write_npz("many.npz", train=90, test=300))


def test_a_classifier_that_does_its_task_is_told_from_one_that_gets_other_images(many, monkeypatch):
    only(monkeypatch, "accuracy")
    options = {"image": (1, 8, 8), "data": many, "budget": "60s"}
    good = preimage.audit(fitted(), out="good", **options).record
    assert good["task"]["works"] == "yes" and good["task"]["accuracy"] > 0.9
    assert good["premise"]["tone"] == "good" and good["task"]["images"] == 300
    result = preimage.audit(fitted(), mean=(9.0,), out="wrong", **options)
    assert result.record["task"]["works"] == "no" and result.record["task"]["accuracy"] < 0.5
    page = re.sub("</?span[^>]*>", "", " ".join(result.page.read_text(encoding="utf-8").split()))
    assert "does not work on these data. Check the normalisation (--mean, --std)" in page
    assert page.index("does not work") < page.index("What does it accept?")


def test_what_does_not_work_is_told_in_the_terminal_and_stops_a_gate(capsys, many, monkeypatch):
    only(monkeypatch, "accuracy")
    arguments = ["audit", "tiny:build", *tiny.IMAGE, "--data", many, "--out", "run"]
    assert main([*arguments, "--fail-on", "task.works==no"]) == 3
    out, err = (" ".join(text.split()) for text in capsys.readouterr())
    assert "Does it do its own task?" in out and "too close to guessing" in err
    assert main([*arguments, "--fail-on", "task.accuracy<0.01"]) == 0  # the figure is recorded


class Always(nn.Module):
    """Names one class whatever it sees."""

    def __init__(self, classes):
        super().__init__()
        self.last = nn.Linear(64, classes)
        nn.init.zeros_(self.last.weight)
        self.last.bias.data = -torch.arange(classes).float()

    def forward(self, images):
        return self.last(images.flatten(1))


def test_naming_the_commonest_class_alone_is_no_work(monkeypatch):
    only(monkeypatch, "accuracy")
    images, _ = tiny.bands(200)
    labels = (np.arange(200) % 10 == 9).astype(int)
    np.savez("uneven.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    options = {"image": (1, 8, 8), "data": "uneven.npz", "budget": "60s", "out": "run"}
    found = preimage.audit(Always(2).eval(), **options).record
    assert found["task"]["accuracy"] == pytest.approx(0.9)
    assert found["task"]["balanced_accuracy"] == found["task"]["guessing"] == 0.5
    assert found["task"]["works"] == "no"


@pytest.mark.parametrize(
    ("right", "of", "works"),
    [
        ((1710, 90), (1900, 100), "yes"),  # nine of ten of either class, one of which is rare
        ((1900, 0), (1900, 100), "no"),
        ((8, 7), (10, 10), "can't tell"),
        ((900, 0), (900, 0), "can't tell"),
        ((30,) * 10, (100,) * 10, "yes"),
        ((11,) * 10, (100,) * 10, "no"),
    ],
)
def test_skill_is_told_from_guessing_as_far_as_the_images_tell(right, of, works):
    labels = torch.arange(len(of)).repeat_interleave(torch.tensor(of))
    hits = [torch.arange(n) < r for r, n in zip(right, of, strict=True)]
    found = balanced(torch.cat(hits), labels)
    assert found.works(len(of)) == works
    assert 0 <= found.low <= found.share <= found.high <= 1


@pytest.mark.parametrize(
    ("right", "of", "classes", "works"),
    [
        ((475,), (500,), 10, "can't tell"),  # always naming that class would do as well
        ((270, 269), (500, 500), 43, "can't tell"),
        ((470, 460), (500, 500), 43, "yes"),
        ((10, 9), (500, 500), 43, "no"),
    ],
)
def test_images_of_some_classes_alone_say_less_of_skill(right, of, classes, works):
    labels = torch.arange(len(of)).repeat_interleave(torch.tensor(of))
    hits = [torch.arange(n) < r for r, n in zip(right, of, strict=True)]
    assert balanced(torch.cat(hits), labels).works(classes) == works


def test_most_of_the_images_right_is_little_where_most_of_the_classes_are_wrong():
    task = {"accuracy": 0.93, "balanced_accuracy": 0.3, "images": 9900, "works": "yes"}
    task |= {"balanced_low": 0.28, "balanced_high": 0.32, "guessing": 0.1}
    assert premise(task, "").tone == "fair"
    assert premise({**task, "balanced_accuracy": 0.9}, "").tone == "good"


@pytest.mark.parametrize(("works", "tone"), [("no", "unknown"), ("yes", "good")])
def test_nothing_good_is_said_of_a_classifier_that_does_not_work(works, tone):
    share = {"noise_share": 0.0, "noise_images": 500, "noise_interval": list(wilson(0, 500))}
    parts = [("accuracy", "task", {"works": works}), ("noise", "accept", share)]
    done = {n: {"question": q, "reason": None, "figures": f} for n, q, f in parts}
    assert job._answers(done)[0].tone == tone


def test_own_data_as_ood_is_refused(capsys, data):
    halves(train=60, test=45)
    for ood in (data, f"./{data}", str(Path(data).resolve()), "held.npz"):
        status, _, err = audit(capsys, "--data", data, "--heldout", "held.npz", "--ood", ood)
        assert status == 2 and "other data" in err
    shutil.copy("held.npz", "twin.npz")
    status, _, err = audit(capsys, "--data", data, "--heldout", "held.npz", "--ood", "twin.npz")
    assert status == 2 and "in 'twin.npz' among the known ones" in err


def test_a_question_without_an_answer_says_why_the_part_that_decides_it_has_none():
    def entry(name, question, reason):
        return {"name": name, "question": question, "reason": reason, "figures": {}}

    done = [
        entry("units", "accept", "there is no time"),
        entry("hardening", "ood", "give a larger --budget"),
        entry("detection", "ood", "the scores are NaN"),
    ]
    accept, ood, leak = job._answers({one["name"]: one for one in done})
    assert ood.meaning == "The scores are NaN."
    assert "no time" not in accept.meaning and leak.answer == "Not measured"


def test_an_answer_from_few_samples_says_that_they_are_too_few():
    def answer(bad, count, noise=None):
        figures = {"counterfeit_share": bad / count, "counterfeit_samples": count}
        figures["counterfeit_interval"] = list(wilson(bad, count))
        if noise is not None:
            figures |= {"noise_share": noise, "noise_images": 500}
            figures["noise_interval"] = list(wilson(round(noise * 500), 500))
        part = {"name": "counterfeits", "question": "accept", "reason": None, "figures": figures}
        return job._answers({"counterfeits": part})[0]

    assert answer(0, 1).answer == "Too few images to tell" and answer(0, 1).tone == "unknown"
    assert answer(0, 1, noise=0.0).answer == "Hardly anything but its classes"
    assert answer(1, 20, noise=0.0).tone == "unknown"
    assert answer(0, 400).tone == "good" and answer(9, 10).tone == "bad"
    assert answer(0, 200).tone == "fair"  # up to 2 % may be


@pytest.mark.parametrize(
    ("taken", "of", "tone"), [(0, 21, "unknown"), (0, 60, "fair"), (0, 500, "good")]
)
def test_noise_of_which_little_was_shown_earns_no_praise(taken, of, tone):
    figures = {"noise_share": taken / of, "noise_images": of}
    figures["noise_interval"] = list(wilson(taken, of))
    part = {"name": "noise", "question": "accept", "reason": None, "figures": figures}
    assert job._answers({"noise": part})[0].tone == tone


@pytest.mark.parametrize(("each", "tone"), [(3, "unknown"), (50, "good")])
def test_an_auroc_of_a_handful_of_images_is_no_answer(each, tone):
    figures = {"auroc": 1.0, "auroc_lowest": 1.0, "sets": ["noise"], "images_each": each}
    part = {"name": "detection", "question": "ood", "reason": None, "figures": figures}
    answer = job._answers({"detection": part})[1]
    assert answer.tone == tone and answer.figure == "1.000"


@pytest.mark.parametrize("there", [7, 40, 200])
def test_few_real_images_start_as_much_noise_as_many(there):
    pixels = torch.arange(there, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8)
    real = ImageSet("real", "test", pixels, torch.zeros(there, dtype=torch.long), ("a", "b"))
    context = SimpleNamespace(data=SimpleNamespace(test=real))
    name, starts = acceptance._starts(context, 30)
    assert name == "real ones" and len(starts) == 30
    assert len(starts.images[:, 0, 0, 0].unique()) == min(30, there)


@pytest.mark.parametrize(
    ("cost", "fit", "images"),
    [(1e-5, 5000, 10_000), (2e-3, 1000, 62), (2e-2, 0, 50), (5e-2, 0, 20)],
)
def test_a_slow_network_is_scored_less_and_at_last_by_itself_alone(cost, fit, images):
    context = SimpleNamespace(predict_seconds=cost, command=SimpleNamespace(ood=()))
    context.fixed = lambda _, choose: choose()
    assert detection._fit_images(context, 10.0) == fit
    assert room(context, 10.0, fit) == max(50, images)
    with pytest.raises(LeftOutError, match="give a larger --budget"):
        room(context, 0.1 * cost, 0)


def test_real_images_that_are_named_are_not_switched_off(capsys, data):
    for option in ("--data", "--heldout"):
        status, _, err = audit(capsys, option, data, "--no-real")
        assert status == 2 and "expected no --data or --heldout beside --no-real" in err


def test_images_that_may_have_been_trained_on_are_not_called_new(capsys, without_parts):
    images, labels = tiny.bands(60)
    np.savez("whole.npz", images=images, labels=labels)
    halves(train=60, test=45)
    assert audit(capsys, "--data", "whole.npz")[0] == 0
    assert audit(capsys, "--data", "whole.npz", "--heldout", "held.npz", out="apart")[0] == 0
    whole, apart = without_parts
    assert not whole.data.split and apart.data.split
    record = job._record(whole, {}, 60.0)
    assert any("'whole.npz' has no splits" in limit for limit in page_limits(record))
    record = job._record(apart, {}, 60.0)
    assert not any("splits" in limit for limit in page_limits(record))


def test_a_classifier_of_few_images_is_audited_with_these(capsys, data, without_parts):
    few = tiny.train_arguments(data, "few", "--limit", "30")
    assert main(few) == 0
    assert main(["audit", "few", "--budget", "60s", "--out", "run"]) == 0
    (context,) = without_parts
    assert len(context.data.train) == len(context.data.test) == 30
    with np.load(Path("few", "images.npz")) as kept:
        assert np.array_equal(context.data.train.images[:, 0].numpy(), kept["x_train"][:, 0])


def test_a_baseline_that_breaks_is_left_out_alone(capsys, data, monkeypatch):
    real = baselines.fit_baseline

    def fit(name, fitted):
        if name == "energy":
            raise ZeroDivisionError("by zero")
        return real(name, fitted)

    monkeypatch.setattr(baselines, "fit_baseline", fit)
    only(monkeypatch, "detection")
    status, record, _ = audit(capsys, "--data", data)
    assert status == 0 and state(record, "detection")["state"] == "done"
    assert "Left out: energy, ZeroDivisionError: by zero" in Path("run", job.PAGE_FILE).read_text()
    # known images that are only turned or negated are no unknown ones
    assert "synthetic:stripes" in record["ood"]["sets"]
    assert not {"synthetic:rotated", "synthetic:inverted"} & set(record["ood"]["sets"])


def test_parts_work_on_the_device_that_was_asked_for(capsys, data, monkeypatch, without_parts):
    assert audit(capsys, "--data", data)[0] == 0
    (context,) = without_parts
    monkeypatch.setattr(
        "preimage.auditing.context.make_fabric", lambda _: SimpleNamespace(device=GPU)
    )
    seen = []

    def work(context, seconds):
        seen.append(context.classifier.mean.device)
        return Found()

    with PretendedGPU():
        for is_job in (False, True):
            job._do(Part("one", "accept", 1.0, (), is_job, work), context, 1.0)
        assert seen == [GPU, torch.device("cpu")]
        assert context.classifier.mean.device.type == "cpu"


def convolution():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 64, tiny.CLASSES)
    return nn.Sequential(*layers).eval()


def test_silence_about_a_convolutional_network_is_not_called_good(data, monkeypatch):
    only(monkeypatch, "leak")
    monkeypatch.setattr("preimage.leak.verdict.LEVEL", 0.0)  # never "leaks"
    options = {"image": (1, 8, 8), "data": data, "budget": "60s", "out": "run"}
    record = preimage.audit(convolution(), **options).record
    assert record["leak"]["first_layer"] == "other"
    assert "silence proves little" in record["answers"][2]["meaning"]


@pytest.mark.parametrize("number", [torch.float32, torch.bfloat16])
def test_a_dense_layer_is_known_in_half_precision_too(number):
    classifier = Classifier(tiny.build().to(number).eval(), ImageSpec(1, 8, 8))
    assert _first_layer(SimpleNamespace(classifier=classifier)) == "dense"


@pytest.mark.parametrize(
    ("verdict", "layer", "tone", "silent"),
    [
        ("no evidence of a leak", "dense", "good", False),
        ("no evidence of a leak", "other", "unknown", True),
        ("can't tell", "other", "unknown", True),
        ("leaks", "other", "bad", False),
    ],
)
def test_the_third_answer_counts_what_the_attack_can_find(verdict, layer, tone, silent):
    figures = {"verdict": verdict, "first_layer": layer, "p_value": 0.5}
    figures |= {"reconstructions": 60, "steps": 100, "images_each": 60}
    part = {"name": "leak", "question": "leak", "reason": None, "figures": figures}
    answer = job._answers({"leak": part})[2]
    assert answer.tone == tone and ("silence proves little" in answer.meaning) == silent


def test_one_class_is_told():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 1)).eval()
    with pytest.raises(PreimageError, match="class"):
        preimage.audit(network, image=(1, 8, 8), budget="60s", out="run")
    assert not Path("run").exists()


@pytest.fixture
def without_parts(monkeypatch):
    """Audits that end before their first part, and tell what they would have worked with."""
    seen = []

    def nothing(context, *_):
        seen.append(context)
        context.folder.finish({"model": context.classifier.name, "answers": []})

    monkeypatch.setattr(job, "_run", nothing)
    return seen


def halves(train, test):
    """One file of training images alone, and one of others."""
    images, labels = tiny.bands(train)
    np.savez("train.npz", x_train=images, y_train=labels)
    images, labels = tiny.bands(test, seed=1)
    np.savez("held.npz", x_test=images, y_test=labels)


def test_data_that_cannot_be_used_is_told_before_any_work(capsys, data, without_parts):
    images, labels = tiny.bands(20)
    np.savez("two.npz", x_test=images, y_test=labels % 2)
    np.savez("two-train.npz", x_train=images, y_train=labels % 2)
    for more, said in (
        (("--ood", "fashon_mnist"), "did you mean fashion_mnist"),
        (
            ("--heldout", "two.npz"),
            "images for --heldout of 3 classes, as the classifier has, found 2",
        ),
        (("--heldout", "nowhere.npz"), "nowhere.npz"),
        (("--data", "two-train.npz", "--heldout", data), "images for --data of 3 classes"),
        (("--data", "nowhere.npz", "--heldout", data), "nowhere.npz"),
    ):
        status, _, err = audit(capsys, "--data", data, *more)
        assert status == 2 and said in err
        assert not Path("run").exists() and not without_parts
    assert audit(capsys, "--data", data)[0] == 0  # the folder is free for the mended command


def test_held_out_images_stand_in_place_of_a_test_split(capsys, without_parts):
    halves(train=60, test=45)
    assert audit(capsys, "--data", "train.npz")[0] == 2
    assert audit(capsys, "--data", "train.npz", "--heldout", "held.npz")[0] == 0
    assert audit(capsys, "--heldout", "held.npz", out="alone")[0] == 0
    both, alone = (context.data for context in without_parts)
    assert (both.name, len(both.train), len(both.test)) == ("train.npz", 60, 45)
    assert (alone.name, alone.train, len(alone.test)) == ("held.npz", None, 45)


def write_folder(root):
    """A folder of class folders, below train/ and test/, and one of its files."""
    for split, seed in (("train", 0), ("test", 1)):
        images, labels = tiny.bands(60, seed)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = Path(root, split, str(label), f"{i}.jpg")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    return Path(root, "train", "1", "1.jpg")


def test_one_bad_training_image_is_told_and_costs_what_needs_them_alone(capsys, monkeypatch):
    only(monkeypatch, "accuracy", "leak")
    monkeypatch.setattr(leaking, "_steps", lambda *_: 3)
    bad = write_folder("pictures")
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    status, record, err = audit(capsys, "--data", "pictures")
    assert status == 0 and state(record, "accuracy")["state"] == "done"
    assert "what needs training images is left out" in err and "1.jpg" in err
    for text in (state(record, "leak")["reason"], record["answers"][2]["meaning"]):
        assert "raining images cannot be read" in text and "1.jpg" in text
    bad.write_bytes(whole)
    status, _, err = audit(capsys, "--data", "pictures")
    assert status == 2 and "no train images" in err and "--overwrite" in err
    status, record, _ = audit(capsys, "--data", "pictures", "--overwrite")
    assert "time for 3 steps" in state(record, "leak")["reason"]


def test_data_without_training_images_are_no_fault(capsys, monkeypatch):
    only(monkeypatch, "leak")
    halves(train=60, test=45)
    _, record, err = audit(capsys, "--data", "held.npz")
    assert "name its data set with --data" in state(record, "leak")["reason"]
    assert "left out" not in err


def test_inversion_is_compared_with_the_held_out_images(capsys, monkeypatch):
    only(monkeypatch, "inversion")
    halves(train=60, test=45)
    status, record, _ = audit(capsys, "--data", "train.npz", "--heldout", "held.npz")
    assert status == 0 and state(record, "inversion")["reason"] is None
    assert record["accept"]["vendi_pixel_real"] > 1


def test_several_devices_are_refused_at_once(capsys, without_parts):
    status, _, err = audit(capsys, "--devices", "2", "--accelerator", "cpu")
    assert status == 2 and "expected one device for an audit, found --devices 2" in err
    assert not Path("run").exists() and not without_parts

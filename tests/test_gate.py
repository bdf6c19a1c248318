"""Conditions on an audit and the comparison of two; no network is needed for either."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import get_args

import pytest

from preimage.auditing.compare import compare, comparison_markdown, read_audit
from preimage.auditing.figures import LEAST_P, VERDICTS
from preimage.auditing.gate import check, junit, markdown, parse
from preimage.auditing.record import FORMAT, empty_sections, fill
from preimage.cli import main
from preimage.config import BASELINES
from preimage.errors import PreimageError
from preimage.leak.permutation import PERMUTATIONS
from preimage.leak.verdict import Answer
from preimage.ood.baselines import baseline_names


def record(**changes):
    sections = empty_sections()
    fill(sections["ood"], {"auroc": 0.9, "sets": ["noise"]})
    fill(sections["leak"], {"verdict": "no evidence of a leak", "p_value": 0.5})
    answer = {"question": "Q|1", "answer": "<b>", "figure": "1", "meaning": "of x."}
    base = {"format": FORMAT, "model": "m", "classes": 3, "image": [1, 8, 8], "data": None}
    return {**base, "seed": 0, "budget_s": 60.0, "answers": [answer], **sections, **changes}


def outcome(text, **changes):
    (found,) = check(record(**changes), parse([text]))
    return found


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        ("ood.auroc<0.95", True),
        ("ood.auroc < .9", False),
        ("ood.auroc<=0.9", True),
        ("ood.auroc>=0.9", True),
        ("ood.auroc>0.9", False),
        ("leak.verdict==leaks", False),
        ("leak.verdict != 'leaks'", True),
        ('leak.verdict=="can\'t tell"', False),
        ("leak.verdict!=no evidence of a leak", False),
        ("model==m", True),
        ("classes!=3", False),
        ("classes>=4", False),
        ("classes==3", True),
    ],
)
def test_condition_holds_or_not(text, failed):
    assert outcome(text).failed is failed


def test_what_was_not_measured_cannot_pass():
    found = outcome("ood.fpr95>0.2")
    assert found.failed and found.measured is None and "not measured" in found.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ood.aurok<0.9", "did you mean ood.auroc"),
        ("ood.auroc", "expected a condition"),
        ("", "expected a condition"),
        ("ood.auroc=<0.9", "expected a condition"),
        ("leak.verdict<leaks", "expected == or !="),
        ("leak.verdict==1", "no audit says"),
        ("leak.verdict==Leaks", "no audit says"),
        ("leak.verdict==can't tell'", "no audit says"),
        ("ood.best_baseline==Vim", "no audit says"),
        ("ood.best_baseline==msp", "no audit says"),
        ("leak.p_value<0.001", "between 0.001 and 1"),
        ("leak.membership_p_value<0.0005", "between 0.0005 and 1"),
        ("accept.vendi_pixel<1", "at 1 or above"),
        ("accept.classes_shown>20", "between 0 and 20"),
        ("ood.auroc==high", "expected a number"),
        ("ood.auroc<nan", "expected a number"),
        ("ood.auroc<inf", "expected a number"),
        ("ood.auroc<0.95<1", "expected a number"),
        ("ood.auroc<95%", "expected a number"),
        ("ood.auroc==0.9", "hardly ever"),
        ("accept.counterfeit_share!=0", "hardly ever"),
        ("accept.counterfeit_share>5", "between 0 and 1"),
        ("accept.counterfeit_share>1", "between 0 and 1"),
        ("ood.auroc<95", "between 0 and 1"),
        ("ood.auroc<0", "between 0 and 1"),
        ("ood.auroc>=0", "between 0 and 1"),
        ("ood.fpr95>=1.01", "between 0 and 1"),
        ("leak.recovered<0", "at 0 or above"),
        ("leak.recovered==0.5", "is whole"),
        ("leak.ssim_train>1", "between -1 and 1"),
        ("ood.sets==noise", "a list or a sentence"),
        ("accept.noise_by_set>0.1", "a list or a sentence"),
        ("leak.reason==none", "a list or a sentence"),
    ],
)
def test_wrong_conditions_are_told_before_any_work(text, said):
    with pytest.raises(PreimageError, match=said):
        parse([text])


@pytest.mark.parametrize("text", ["data==mnist", "leak.recovered>0", "accept.noise_share>=1"])
def test_every_kind_of_figure_fails_where_it_is_missing(text):
    assert outcome(text).failed


def test_an_audit_of_before_is_read_though_it_did_not_measure_the_accuracy():
    old = record()
    del old["task"]
    assert check(old, parse(["task.accuracy<0.9"]))[0].failed
    new = record(task={"accuracy": 0.97, "works": "yes"}, premise=old["answers"][0])
    found = compare(old, new)
    assert set(found.only_in_one) == {"task.accuracy", "task.works"} and not found.differences
    worse = record(task={"accuracy": 0.31, "works": "no"})
    assert [d.change for d in compare(new, worse).differences] == ["worse", "worse"]
    assert markdown(new, []).count("| Q") == 2 and markdown(old, []).count("| Q") == 1


def test_an_audit_is_read_as_utf_8_whatever_the_machine_writes(tmp_path, monkeypatch):
    file = tmp_path / "audit.json"
    file.write_text(json.dumps(record(model="Bär"), ensure_ascii=False), encoding="utf-8")
    monkeypatch.setattr("io.text_encoding", lambda encoding, *_: encoding or "latin-1")
    assert read_audit(str(file))["model"] == "Bär"


def test_words_of_the_gate_are_those_that_audits_say():
    assert set(VERDICTS) == set(get_args(Answer))
    assert set(BASELINES) == set(baseline_names())


def test_wrong_condition_ends_the_command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["audit", "mnist", "--fail-on", "ood.nothing<1"]) == 2
    assert "expected a figure of an audit" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_junit_counts_and_escapes():
    outcomes = check(record(), parse(["ood.auroc<0.95", "ood.auroc<0.5"]))
    suite = ET.fromstring(junit(outcomes, '<"m">'))
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert suite.get("name") == 'preimage audit <"m">'
    first, second = suite.findall("testcase")
    assert first.get("name") == "ood.auroc<0.95" and first.find("failure") is not None
    assert second.find("failure") is None


def test_markdown_keeps_its_tables_whole():
    text = markdown(record(), check(record(), parse(["ood.auroc<0.95"])))
    assert "Q\\|1" in text and "<b>" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert "`ood.auroc<0.95`" in text  # in a span of code an entity would be read as it is
    assert all(line.replace("\\|", "").count("|") == 4 for line in rows)
    assert "failed" in text


def test_unknown_figure_of_a_part_is_a_mistake():
    with pytest.raises(KeyError):
        fill(empty_sections()["ood"], {"aurok": 1.0})


def test_nan_counts_as_not_measured():
    section = empty_sections()["ood"]
    fill(section, {"auroc": float("nan")})
    assert section["auroc"] is None


# ---- two audits


def better():
    other = record(seed=1)
    other["ood"] = {**other["ood"], "auroc": 0.95, "fpr95": 0.1}
    other["leak"] = {**other["leak"], "verdict": "leaks", "p_value": 0.001}
    return other


def test_directions_of_change():
    found = compare(record(), better())
    changes = {d.name: d.change for d in found.differences}
    assert changes == {
        "ood.auroc": "better",
        "leak.verdict": "worse",
        "leak.p_value": "worse",
    }
    back = {d.name: d.change for d in compare(better(), record()).differences}
    assert back["ood.auroc"] == "worse" and back["leak.verdict"] == "better"
    assert found.only_in_one == ("ood.fpr95",)
    assert found.warnings == ("the two audits differ in seed: 0 and 1",)
    assert "| ood.auroc | 0.9 | 0.95 | better |" in comparison_markdown(found).replace(
        "first (m)", ""
    )


def noisy(share, low, high):
    other = record()
    other["accept"] = {**other["accept"], "noise_share": share, "noise_interval": [low, high]}
    return other


def test_shares_whose_intervals_overlap_differ_by_chance():
    few, some, many = noisy(0.02, 0.01, 0.04), noisy(0.025, 0.015, 0.045), noisy(0.2, 0.15, 0.25)
    changes = [compare(few, other).differences[0].change for other in (some, many)]
    assert changes == ["within chance", "worse"]


def test_what_nobody_could_see_is_no_difference():
    figures = [record(), record()]
    for one, auroc in zip(figures, (0.98011, 0.98012), strict=True):
        one["ood"] = {**one["ood"], "auroc": auroc}
    assert compare(*figures).differences == ()


def test_other_images_under_the_same_name_are_told_of():
    held = {"the evaluator": "a", "the test images": "b", "the train images": None}
    other = {**held, "the test images": "c", "the svhn images": "d"}
    found = compare(record(contents=held), record(contents=other))
    assert found.warnings == ("the two audits differ in the content of the test images",)
    assert compare(record(contents=held), record()).warnings == ()


def test_other_versions_are_told_of_where_both_are_known():
    first = {"preimage": "0.1.0", "torch": "2.12.0", "numpy": "2.3.0"}
    second = {"preimage": "0.1.0", "torch": "2.13.0", "numpy": "2.4.0"}
    found = compare(record(versions=first), record(versions=second))
    assert found.warnings == ("the two audits differ in the version of torch: 2.12.0 and 2.13.0",)
    assert compare(record(versions=first), record()).warnings == ()


def test_a_comparison_keeps_its_table_whole():
    found = compare(record(model="a|b"), record(model="<c>", seed=1))
    text = comparison_markdown(found)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {5} and "<c>" not in text


def test_the_least_p_values_are_those_of_the_tests():
    assert LEAST_P == 1 / (PERMUTATIONS + 1)


def test_equal_audits_do_not_differ():
    assert compare(record(), record()).differences == ()


@pytest.mark.parametrize(
    "damage",
    [{"classes": None}, {"classes": "3"}, {"leak": None}, {"ood": [1]}, {"contents": ["a"]}],
)
def test_a_damaged_audit_is_one_sentence(tmp_path, damage):
    file = tmp_path / "audit.json"
    file.write_text(json.dumps(record(**damage)))
    with pytest.raises(PreimageError, match="expected a whole audit"):
        read_audit(str(file))


def test_other_tasks_are_not_compared():
    with pytest.raises(PreimageError, match="as many classes"):
        compare(record(), record(classes=4))


@pytest.mark.parametrize("content", ["", "[]", '{"format": "other"}'])
def test_what_is_no_audit_is_told(tmp_path, content):
    (tmp_path / "audit.json").write_text(content)
    with pytest.raises(PreimageError, match="expected an audit"):
        read_audit(str(tmp_path))
    with pytest.raises(PreimageError, match="expected an audit"):
        read_audit(str(tmp_path / "missing.json"))


def test_audits_of_another_version_are_told(tmp_path):
    (tmp_path / "audit.json").write_text(json.dumps(record(format="preimage-audit-1")))
    with pytest.raises(PreimageError, match=r"this version .* found preimage-audit-1"):
        read_audit(str(tmp_path))


def test_compare_command(tmp_path, capsys):
    for name, value in (("a", record()), ("b", better())):
        (tmp_path / name).mkdir()
        (tmp_path / name / "audit.json").write_text(json.dumps(value))
    paths = [str(tmp_path / "a"), str(tmp_path / "b" / "audit.json")]
    assert main(["compare", *paths, "--json", "--out", str(tmp_path / "d.md")]) == 0
    out = json.loads(capsys.readouterr().out)
    assert {d["name"] for d in out["differences"]} >= {"ood.auroc"}
    assert "ood.auroc" in (tmp_path / "d.md").read_text()
    assert main(["compare", *paths]) == 0
    assert "0.9 -> 0.95, better" in capsys.readouterr().out


def test_what_makes_figures_differ_is_told():
    other = record(evaluator="judge", data_split="all")
    other["ood"] = {**other["ood"], "sets": ["svhn", "noise"]}
    mine = record(evaluator=None, data_split="test")
    mine["ood"] = {**mine["ood"], "sets": ["noise"]}
    assert compare(mine, other).warnings == (
        "the two audits differ in data split: test and all",
        "the two audits differ in evaluator: None and judge",
        "the two audits differ in unknown images: only one of them has svhn",
    )

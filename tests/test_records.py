"""Results files, their summaries and the README's tables."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from preimage.errors import PreimageError
from preimage.records import merge_records, read_records, summarise

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))  # where it finds its neighbours
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_merge_replaces_equal_keys_and_keeps_the_rest(tmp_path):
    path = tmp_path / "results" / "x.json"
    merge_records(path, [{"a": 1, "seed": 0, "v": 1}, {"a": 1, "seed": 1, "v": 2}], ("a", "seed"))
    merge_records(path, [{"a": 1, "seed": 1, "v": 3}], ("a", "seed"), command="made by hand")
    kept, replaced = read_records(path)
    assert (kept["v"], replaced["v"]) == (1, 3)
    meta = json.loads(path.read_text())["meta"]
    assert meta["command"] == "made by hand"
    assert {"commit", "versions", "hardware", "date"} <= meta.keys()
    assert "torch" in meta["versions"]
    assert replaced["date"] == meta["date"] and replaced["commit"] == meta["commit"]


def test_older_records_keep_the_commit_that_they_were_made_with(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    for commit in ("first", "second"):
        monkeypatch.setattr(
            "preimage.records.environment", lambda c=commit: {"commit": c, "date": c}
        )
        merge_records(path, [{"name": commit}], ["name"], "by hand")
    assert {r["name"]: r["commit"] for r in read_records(path)} == {
        "first": "first",
        "second": "second",
    }


def test_processes_that_merge_at_once_lose_no_record(tmp_path):
    program = (
        "import sys\nfrom pathlib import Path\nfrom preimage import records\n"
        "records.environment = lambda: {'commit': None, 'date': ''}\n"
        "for i in range(15):\n"
        "    record = {'who': sys.argv[2], 'i': i}\n"
        "    records.merge_records(Path(sys.argv[1]), [record], ('who', 'i'))\n"
    )
    path = tmp_path / "x.json"
    workers = [subprocess.Popen([sys.executable, "-c", program, path, who]) for who in "abc"]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert len(read_records(path)) == 45
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_missing_file_has_no_records_and_a_damaged_one_is_told(tmp_path):
    path = tmp_path / "x.json"
    assert read_records(path) == []
    for damaged in ('{"records": [', "[]", '{"records": 3}', '{"records": [3]}'):
        path.write_text(damaged)
        with pytest.raises(PreimageError, match="expected"):
            read_records(path)


def test_summary_is_mean_and_sample_deviation():
    records = [
        {"d": "x", "v": 1.0, "w": None},
        {"d": "x", "v": 3.0, "w": 5.0},
        {"d": "y", "v": 7.0, "w": None},
    ]
    x, y = summarise(records, ["d"], ["v", "w"])
    assert (x["d"], x["n"], y["n"]) == ("x", 2, 1)
    assert x["v"] == (2.0, pytest.approx(2**0.5), 2)
    assert x["w"] == (5.0, None, 1)
    assert y["v"] == (7.0, None, 1)
    assert y["w"] == (None, None, 0)


def test_tables_are_made_from_the_results_alone(tables, tmp_path):
    record = {"dataset": "mnist", "device": "cpu", "step_ms": 120.0}
    merge_records(
        tmp_path / "speed.json",
        [{**record, "unavoidable_ms": 100.0, "ratio": 1.2}],
        ("dataset", "device"),
    )
    text = "a\n<!-- table:speed -->\nold 9.99\n<!-- /table:speed -->\nb\n"
    text += "<!-- table:zoo -->\n<!-- /table:zoo -->\n"
    after = tables.rewrite(text, tmp_path)
    assert "old" not in after and "not measured yet" in after
    assert "| MNIST | cpu | 120 | 100 | 1.20 |" in after
    assert after.startswith("a\n") and "\nb\n" in after
    assert tables.rewrite(after, tmp_path) == after


def inversion_record(**changes):
    shares = ("inversion_accuracy", "evaluator_accuracy", "confidence", "precision", "coverage")
    plain = ("vendi_pixel", "vendi_pixel_real", "vendi_feature", "vendi_feature_real", "seconds")
    settings = {"dataset": "gtsrb", "preset": "paper", "conditioning": "vector", "dropout": 0.2}
    figures = {**dict.fromkeys(shares, 0.5), **dict.fromkeys(plain, 2.0), "student_accuracy": None}
    return {**settings, **figures, **changes}


def test_other_settings_and_missing_values_are_never_averaged_unseen(tables):
    records = [
        inversion_record(seed=0, precision=None),
        inversion_record(seed=1, precision=0.25),
        inversion_record(seed=0, conditioning="label", inversion_accuracy=0.9),
        inversion_record(seed=0, dataset="mnist"),
        inversion_record(seed=0, dataset="not_known"),
    ]
    table = tables.inversion_table(records)
    columns = ["MNIST<br>conditioning vector", "GTSRB<br>conditioning vector"]
    columns += ["GTSRB<br>conditioning label", "not_known<br>conditioning vector"]
    assert table.startswith("|  | " + " | ".join(columns) + " |")
    assert "| inversion accuracy, % | 50.00 | 50.00 ± 0.00 | 90.00 | 50.00 |" in table
    assert "| precision, % | 50.00 | 25.00 (1 of 2 seeds) | 50.00 | 50.00 |" in table


def test_zoo_table_has_the_target_before_its_evaluator(tables):
    record = {"dataset": "gtsrb", "arch": "cnn", "test_accuracy": 0.98765, "parameters": 123456}
    records = [
        {**record, "role": "evaluator"},
        {**record, "role": "target"},
        {**record, "role": "target", "dataset": "mnist"},
    ]
    rows = tables.zoo_table(records).splitlines()[2:]
    assert rows[0] == "| MNIST | target | cnn | 98.77 | 123,456 |"
    assert [row.split(" | ")[1] for row in rows] == ["target", "target", "evaluator"]


def test_check_tells_an_old_readme_and_writes_nothing(tables, tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    old = "größer\n<!-- table:speed -->\n<!-- /table:speed -->\n"
    readme.write_text(old, encoding="utf-8")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["tables.py", "--check"])
    with pytest.raises(SystemExit, match="out of date"):
        tables.main()
    assert readme.read_text(encoding="utf-8") == old
    monkeypatch.setattr(sys, "argv", ["tables.py"])
    tables.main()
    assert (
        "größer" in readme.read_text(encoding="utf-8") and "not measured yet" in readme.read_text()
    )
    monkeypatch.setattr(sys, "argv", ["tables.py", "--check"])
    tables.main()


def test_inversion_table_shows_deviation_over_seeds(tables):
    records = [inversion_record(seed=i, inversion_accuracy=v) for i, v in enumerate((0.5, 0.7))]
    table = tables.inversion_table(records)
    assert "| inversion accuracy, % | 60.00 ± 14.14 |" in table
    assert "student's accuracy" not in table  # nobody measured it
    some = inversion_record(seed=0, dataset="mnist", student_accuracy=0.9)
    assert (
        "| student's accuracy on real test images, % | 90.00 | not measured |"
        in tables.inversion_table([*records, some])
    )
    assert "| seeds | 2 |" in table


def test_a_presets_table_leaves_the_others_out_and_shows_the_share_of_real(tables):
    records = [
        inversion_record(seed=0, preset="natural", vendi_pixel=3.0),
        inversion_record(seed=0, preset="paper", vendi_pixel=1.0),
    ]
    table = tables.of_preset("natural")(records)
    assert "| Vendi score per class, pixels | 3.00 |" in table
    assert "| the same over that of real images | 1.50 |" in table
    assert tables.of_preset("explore")(records) == ""


def ablation_record(variant, **changes):
    return {**inversion_record(seed=0, dataset="mnist"), "variant": variant, **changes}


def test_ablation_tables_choose_their_variants_and_keep_the_benchmarks_order(tables):
    records = [
        ablation_record("natural without separation"),
        ablation_record("natural, label conditioning"),
        ablation_record("natural"),
        ablation_record("paper"),
        ablation_record("natural", dataset="cifar10"),
    ]

    def variants(name, dataset="mnist"):
        file, table = tables.TABLES[f"{name}-{dataset}"]
        assert file == "ablation"
        return [row.split(" | ")[0].strip("| ") for row in table(records).splitlines()[2:]]

    assert variants("schemes") == ["natural", "natural, label conditioning"]
    assert variants("terms") == ["natural", "natural without separation"]
    assert variants("paper-terms") == ["paper"] == variants("experiments")
    assert variants("schemes", "cifar10") == ["natural"]
    assert variants("schemes", "gtsrb") == []


def test_every_variant_of_the_ablation_is_in_some_table(tables):
    shown = {
        variant
        for variant in tables.VARIANTS
        if any(chosen(variant) for chosen in tables._CHOICES.values())
    }
    assert shown == set(tables.VARIANTS)


def test_peers_table_has_the_pace_at_both_counts(tables):
    record = {**inversion_record(seed=0, dataset="mnist"), "method": "fourier"}
    records = [
        {**record, "images": 1000, "images_per_second": 5.0},
        {"dataset": "mnist", "method": "fourier", "images": 100_000, "images_per_second": 4.0},
    ]
    (row,) = tables.peers_table(records, "mnist").splitlines()[2:]
    assert row.startswith("| fourier | 50.00 |") and row.endswith("| 5.00 | 4.00 | 1 |")
    assert tables.peers_table(records, "gtsrb") == ""


def test_the_best_peer_of_a_column_is_bold_whoever_it_is(tables):
    record = {**inversion_record(seed=0, dataset="mnist"), "images": 1000}
    records = [
        {**record, "method": "fourier", "coverage": 0.1, "images_per_second": 5.0},
        {**record, "method": "preimage-natural", "coverage": 0.3, "images_per_second": 4.0},
    ]
    fourier, ours = tables.peers_table(records, "mnist").splitlines()[2:]
    assert "| **30.00** |" in ours and "| 4.00 |" in ours
    assert "| 10.00 |" in fourier and "| **5.00** |" in fourier


def test_the_study_page_names_tables_that_exist(tables):
    text = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    names = [match[2] for match in tables._BLOCK.finditer(text)]
    assert len(names) > 10 and set(names) <= set(tables.TABLES)


def test_goals_are_told_as_reached_or_short(tables):
    records = [
        inversion_record(seed=i, dataset="cifar10", preset="natural", inversion_accuracy=v)
        for i, v in enumerate((0.99, 0.995))
    ]
    records.append(inversion_record(seed=0, dataset="cifar10", inversion_accuracy=0.0))
    table = tables.goals_table(records, "natural")
    assert "| inversion accuracy, % | 99.25 of 99, reached |" in table
    assert "| evaluator, % | 50.00 of 85, **short** |" in table
    assert "| student, % | not measured |" in table
    assert tables.goals_table([inversion_record(seed=0)], "natural") == ""

"""Results files, their summaries and the README's tables."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from preimage.errors import PreimageError
from preimage.records import merge_records, read_records, summarise

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "readme_tables", ROOT / "benchmarks" / "readme_tables.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_merge_replaces_equal_keys_and_keeps_the_rest(tmp_path):
    path = tmp_path / "results" / "x.json"
    merge_records(path, [{"a": 1, "seed": 0, "v": 1}, {"a": 1, "seed": 1, "v": 2}], ("a", "seed"))
    merge_records(path, [{"a": 1, "seed": 1, "v": 3}], ("a", "seed"), command="made by hand")
    assert [r["v"] for r in read_records(path)] == [1, 3]
    meta = json.loads(path.read_text())["meta"]
    assert meta["command"] == "made by hand"
    assert {"commit", "versions", "hardware", "date"} <= meta.keys()
    assert "torch" in meta["versions"]


def test_missing_file_has_no_records_and_a_damaged_one_is_told(tmp_path):
    path = tmp_path / "x.json"
    assert read_records(path) == []
    for damaged in ('{"records": [', "[]", '{"records": 3}'):
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
    assert x["v"] == (2.0, pytest.approx(2**0.5))
    assert x["w"] == (5.0, None)
    assert y["v"] == (7.0, None)
    assert y["w"] == (None, None)


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


def test_inversion_table_shows_deviation_over_seeds(tables):
    fields = ("inversion_accuracy", "evaluator_accuracy", "confidence", "precision", "coverage")
    plain = ("vendi_pixel", "vendi_pixel_real", "vendi_feature", "vendi_feature_real", "seconds")
    records = [
        {
            "dataset": "gtsrb",
            **dict.fromkeys(fields, share),
            **dict.fromkeys(plain, 2.0),
            "student_accuracy": None,
        }
        for share in (0.5, 0.7)
    ]
    table = tables.inversion_table(records)
    assert "| inversion accuracy, % | 60.00 ± 14.14 |" in table
    assert "| student's accuracy on real test images, % | not measured |" in table
    assert "| seeds | 2 |" in table

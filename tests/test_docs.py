"""The pages with code do what they say."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from preimage.auditing import acceptance, detection, leaking
from preimage.cli import main
from preimage.inversion import Inversion

DOCS = Path(__file__).parents[1] / "docs"


def test_tutorial_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREIMAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(acceptance, "_steps", lambda *_: 80)
    monkeypatch.setattr(acceptance, "_FEW", 300)
    monkeypatch.setattr(leaking, "_steps", lambda *_: 100)
    monkeypatch.setattr(detection, "_room", lambda *_: 60)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "audit.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    scope: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/audit.md", "exec"), scope)
    out = capsys.readouterr().out
    record = scope["result"].record
    assert "open runs/bars/audit.html" in out and Path("runs/bars/audit.html").is_file()
    assert record["ood"]["auroc"] is not None and record["leak"]["verdict"] is not None
    assert record["accept"]["inversion_accuracy"] > 0.8


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The page's code as a user's module, and the page's commands."""
    page = (DOCS / "extending.md").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREIMAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PREIMAGE_DATA", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    Path("mine.py").write_text("\n\n".join(code))
    (commands,) = re.findall(r"```\n(preimage .*?)```", page, re.DOTALL)
    yield [shlex.split(line)[1:] for line in commands.replace("\\\n", " ").splitlines()]
    sys.modules.pop("mine", None)


def test_parts_of_ones_own_take_part_in_an_inversion(mine, capsys):
    invert, sample = mine
    few = ("--batch", "20", "--check-every", "10", "--samples", "40", "--no-student", "--no-real")
    assert main([*invert, "--steps", "30", *few, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["conditioning"] == "mine:Smoothed"
    assert main(sample) == 0 and Path("threes.png").is_file()
    assert main(["show", "runs/mine"]) == 0
    config = json.loads(Path("runs/mine/config.json").read_text())["config"]
    own = {"mine:Smoothed", "mine:Plain", "mine:edges", "mine:first_layer"}
    assert {name for name, digest in config["code"].items() if digest} == own
    last = json.loads(Path("runs/mine/metrics.jsonl").read_text().splitlines()[-1])
    assert last["check"]["shares"].keys() == {"mine:edges", "mine:first_layer", "sureness"}
    assert last["check"]["shares"]["mine:first_layer"] > 0  # it saw the layers
    inversion = Inversion.load("runs/mine/generator.safetensors")
    assert type(inversion.generator).__name__ == "Plain" and len(inversion.bank) == 2
    assert inversion.images(torch.tensor([0, 9])).shape == (2, 1, 28, 28)

"""The tutorial does what it says."""

from __future__ import annotations

import re
from pathlib import Path

from preimage.auditing import acceptance, detection, leaking

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

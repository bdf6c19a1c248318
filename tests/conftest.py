"""Fixtures of several modules."""

from __future__ import annotations

import pytest


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder to work in, with a cache of its own and no real data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREIMAGE_CACHE", str(tmp_path / "cache"))
    for name in ("PREIMAGE_DATA", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)

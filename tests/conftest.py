"""Fixtures of several modules."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import tiny
from preimage.cli import main


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder to work in, with a cache of its own and no real data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREIMAGE_CACHE", str(tmp_path / "cache"))
    for name in ("PREIMAGE_DATA", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A data set, a hardened run, its plain twin and images of something else."""
    folder = tmp_path_factory.mktemp("ood")
    tiny.write_npz(folder / "bands.npz", train=240, test=90)
    random = np.random.default_rng(0)
    (folder / "other").mkdir()
    for i in range(30):
        pixels = np.kron(random.integers(0, 256, (2, 2)), np.ones((4, 4))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "other" / f"{i:02d}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREIMAGE_CACHE", str(folder / "cache"))
        data = str(folder / "bands.npz")
        assert main(tiny.ood_arguments(data, folder / "hard")) == 0
        plain = ("--width", "4", "--epochs", "4", "--batch", "20", "--lr", "0.02", "--shift", "0")
        assert main(["train", data, "--out", str(folder / "plain"), *plain]) == 0
    return folder

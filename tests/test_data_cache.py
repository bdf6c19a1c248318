"""Decoded sets are stored once, whole or not at all."""

from __future__ import annotations

import multiprocessing
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from preimage.data import ImageSet, cache, decode, load
from preimage.types import ImageSpec


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A set of two classes, and a cache of its own."""
    monkeypatch.setenv("PREIMAGE_CACHE", str(tmp_path / "cache"))
    for name, values in (("a", range(3)), ("b", range(100, 102))):
        (tmp_path / "set" / name).mkdir(parents=True)
        for value in values:
            pixels = np.full((8, 9), value, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{value}.png")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*has no splits")
        yield tmp_path / "set"


def stored(folder: Path) -> list[Path]:
    return sorted((folder.parent / "cache").glob("*.safetensors"))


def values(images: ImageSet) -> list[int]:
    return images.images[:, 0, 0, 0].tolist()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows with each image that is opened."""
    opened: list[object] = []
    original = Image.open

    def spy(file: object) -> Image.Image:
        opened.append(file)
        time.sleep(0.02)  # so that a second process comes in between
        return original(file)

    monkeypatch.setattr(decode.Image, "open", spy)
    return opened


def test_second_load_decodes_nothing(folder: Path, decoded: list[object]) -> None:
    first = load(str(folder))
    assert len(decoded) == 5
    second = load(str(folder))
    assert len(decoded) == 5
    assert torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)
    assert (first.name, first.split, first.class_names) == (
        second.name,
        second.split,
        second.class_names,
    )


def test_every_option_has_its_own_entry(folder: Path) -> None:
    load(str(folder))
    assert load(str(folder), labelled=False).class_names == ()
    assert load(str(folder), spec=ImageSpec(3, 8, 8)).spec == ImageSpec(3, 8, 8)
    assert load(str(folder)).spec == ImageSpec(1, 8, 9)
    assert len(stored(folder)) == 3


def test_changed_source_is_read_anew_and_replaces_the_old(folder: Path) -> None:
    load(str(folder))
    old = stored(folder)
    Image.fromarray(np.full((8, 9), 50, np.uint8)).save(folder / "a" / "0.png")
    assert values(load(str(folder))) == [50, 1, 2, 100, 101]
    assert len(stored(folder)) == 1 and stored(folder) != old


@pytest.mark.parametrize("damage", ["truncate", "flip", "zero", "empty", "format"])
def test_damaged_entry_is_rebuilt(folder: Path, damage: str, decoded: list[object]) -> None:
    load(str(folder))
    (path,) = stored(folder)
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(
        {
            "truncate": whole[:-7],
            "flip": whole[:-50] + bytes([whole[-50] ^ 1]) + whole[-49:],
            "zero": whole[:half] + bytes(len(whole) - half),
            "empty": b"",
            "format": whole.replace(b'"format":"4"', b'"format":"0"'),
        }[damage]
    )
    assert path.read_bytes() != whole
    assert values(load(str(folder))) == [0, 1, 2, 100, 101]
    assert len(decoded) == 10
    assert values(load(str(folder))) == [0, 1, 2, 100, 101]
    assert len(decoded) == 10, "the rebuilt entry is stored again"


def test_killed_while_writing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = cache.save_file

    def killed(tensors: object, path: Path, header: object) -> None:
        original(tensors, path, header)
        path.write_bytes(path.read_bytes()[:-20])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "save_file", killed)
        with pytest.raises(KeyboardInterrupt):
            load(str(folder))
    assert stored(folder) == []
    assert values(load(str(folder))) == [0, 1, 2, 100, 101]
    assert len(stored(folder)) == 1
    assert not list((folder.parent / "cache").glob("*.tmp"))


def test_full_disk_only_costs_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, path: Path, header: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "save_file", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert len(load(str(folder))) == 5
    assert not list((folder.parent / "cache").glob("*.tmp"))


def test_unwritable_cache_warns_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "file").write_text("in the way")
    monkeypatch.setenv("PREIMAGE_CACHE", str(folder.parent / "file" / "cache"))
    with pytest.warns(UserWarning, match="cannot be written .* set PREIMAGE_CACHE"):
        assert len(load(str(folder))) == 5
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(load(str(folder))) == 5
    assert not [w for w in caught if "PREIMAGE_CACHE" in str(w.message)]


def test_nothing_goes_to_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    home = folder.parent / "datasets_home"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home)
    load(str(folder))
    assert not home.exists() or not any(path.is_file() for path in home.rglob("*"))


def _load_and_tell(folder: Path, decoded: list[object], barrier: Any, results: Any) -> None:
    barrier.wait(60)
    found = load(str(folder))
    results.put((found.images.tolist(), found.labels.tolist(), len(decoded)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to start two processes quickly")
def test_two_processes_at_once(folder: Path, decoded: list[object]) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    arguments = (folder, decoded, barrier, results)
    both = [context.Process(target=_load_and_tell, args=arguments) for _ in range(2)]
    for process in both:
        process.start()
    (images_a, labels_a, opened_a), (images_b, labels_b, opened_b) = (
        results.get(timeout=60) for _ in both
    )
    for process in both:
        process.join(60)
    assert images_a == images_b and labels_a == labels_b == [0, 0, 0, 1, 1]
    assert {opened_a, opened_b} == {0, 5}, "one decodes, the other waits for it"
    assert len(stored(folder)) == 1


@pytest.mark.skipif(not os.environ.get("PREIMAGE_DATA"), reason="PREIMAGE_DATA is not set")
def test_real_set_comes_back_the_same() -> None:
    first, second = load("fashion-mnist"), load("fashion_mnist")
    assert torch.equal(first.images, second.images)
    assert second.labels[:5].tolist() == [9, 2, 1, 1, 6]

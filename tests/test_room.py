"""What a step needs is known before it is tried."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

import preimage
import preimage.leak.reconstruction
import preimage.loop
import tiny
from preimage import room
from preimage.classifier import Classifier
from preimage.config import GeneratorConfig, InvertConfig, ReconstructConfig, Runtime
from preimage.errors import PreimageError
from preimage.leak.reconstruction import images_room, reconstruct
from preimage.loop import batch_room
from preimage.types import ImageSpec

SPEC = ImageSpec(1, 8, 8)
CPU = Runtime(accelerator="cpu", precision="32-true")
SMALL = InvertConfig(
    preset="paper", steps=1, batch=64, generator=GeneratorConfig(latent=4, width=4)
)


def with_free(monkeypatch, free):
    for module in (preimage.loop, preimage.leak.reconstruction):
        monkeypatch.setattr(module, "free_bytes", lambda _: free)


def classifier():
    return Classifier(tiny.build(), SPEC)


def test_what_is_kept_is_counted_once():
    values = torch.rand(10, 100, requires_grad=True)
    with room.kept() as found:
        graph = (values * values).sum() + values.square().sum()
    assert found.bytes == 4000
    del graph


def test_a_step_is_measured_by_the_image():
    network = nn.Sequential(nn.Linear(50, 70), nn.ReLU(), nn.Linear(70, 3))
    per_image = room.step_bytes(lambda images: network(torch.rand(images, 50)))
    # the input and what leaves the ReLU; weights are kept however many images there are
    assert per_image == pytest.approx(room._PEAK * 4 * (50 + 70))


@pytest.mark.parametrize("what", ["--batch", "--images"])
def test_what_does_not_fit_is_one_sentence_before_any_step(monkeypatch, what):
    with_free(monkeypatch, 2e5)

    def run(images):
        if what == "--batch":
            return preimage.invert(classifier(), replace(SMALL, batch=images), runtime=CPU)
        config = ReconstructConfig(images=images, steps=1, start="noise")
        return reconstruct(classifier(), config, runtime=CPU)

    with pytest.raises(
        PreimageError, match=f"expected room for 64 images .* lower {what} to"
    ) as told:
        run(64)
    most = int(re.search(rf"lower {what} to (\d+)", str(told.value))[1])
    assert 2 <= most < 64
    run(most)
    with_free(monkeypatch, 1e3)
    with pytest.raises(PreimageError, match="choose smaller images"):
        run(2)
    with_free(monkeypatch, None)
    run(64)


def test_rooms_are_those_of_the_machine(monkeypatch):
    settings = ReconstructConfig(images=64, start="noise")
    for free in (1e6, 2e6):
        with_free(monkeypatch, free)
        batch = batch_room(classifier(), SMALL, CPU)
        images = images_room(classifier(), settings, CPU)
        if free == 1e6:
            first = batch, images
    assert batch == pytest.approx(2 * first[0], abs=1) and images == pytest.approx(
        2 * first[1], abs=1
    )
    with_free(monkeypatch, None)
    assert batch_room(classifier(), SMALL, CPU) is None


def test_what_is_free_is_the_least_of_system_and_container(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    2000 kB\n")
    monkeypatch.setattr(room, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(room, "_CGROUP", tmp_path / "none")
    cpu = torch.device("cpu")
    assert room.free_bytes(cpu) == 2000 * 1024
    monkeypatch.setattr(room, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert room.free_bytes(cpu) == 2000 * 1024
    (tmp_path / "memory.max").write_text("501000\n")
    assert room.free_bytes(cpu) == 500_000
    # what was read from files counts as used, and makes room as soon as it is needed
    stat = "anon 100\ninactive_file 300\nslab_reclaimable 50\nactive_file 70\n"
    (tmp_path / "memory.stat").write_text(stat)
    assert room.free_bytes(cpu) == 500_350
    (tmp_path / "memory.max").unlink()
    (tmp_path / "memory").mkdir()
    first = {"limit_in_bytes": "9000", "usage_in_bytes": "8000", "stat": "total_inactive_file 500"}
    for name, text in first.items():
        (tmp_path / "memory" / f"memory.{name}").write_text(text)
    assert room.free_bytes(cpu) == 1500
    monkeypatch.setattr(room, "_CGROUP", tmp_path / "none")
    monkeypatch.setattr(room, "_MEMINFO", tmp_path / "none")
    assert room.free_bytes(cpu) is None


def test_memory_that_pytorch_holds_for_reuse_on_a_gpu_is_free(monkeypatch):
    said = {"mem_get_info": (3e9, 80e9), "memory_reserved": 60e9, "memory_allocated": 10e9}
    for name, value in said.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    assert room.free_bytes(torch.device("cuda")) == 3e9 + 60e9 - 10e9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_tensor_that_is_gone_leaves_as_much_free_as_before():
    device = torch.device("cuda")
    before = room.free_bytes(device)
    large = torch.empty(2**28, device=device)
    assert room.free_bytes(device) <= before - large.nbytes
    del large
    assert room.free_bytes(device) == pytest.approx(before, abs=2**26)


def test_several_processes_share_what_an_option_says():
    room.check_room(10.0, 4, SPEC, 1000.0, "--batch", processes=2)
    with pytest.raises(PreimageError, match=r"room for 400 images .* lower --batch to 180"):
        room.check_room(10.0, 400, SPEC, 1000.0, "--batch", processes=2)

"""Two processes give the result of one with the same global batch."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from preimage import loop
from preimage.classifier import Classifier
from preimage.cli import main
from preimage.config import Augmentation, GeneratorConfig, InvertConfig, Runtime
from preimage.distributed import GlobalBatchNorm2d, _whole
from preimage.loop import invert
from preimage.room import step_bytes
from preimage.terms.paper import cosine_similarity
from preimage.types import ImageSpec, Prediction
from preimage.zoo.architectures import build
from tiny import PROGRAM, draw_sample, invert_arguments


def run(processes: int, steps: int):
    torch.manual_seed(0)
    network = build("cnn", ImageSpec(3, 12, 12), 4, 8)
    config = InvertConfig(
        steps=steps,
        batch=16,
        check_every=steps,
        generator=GeneratorConfig(latent=8, width=8),
        gamma=2.0,
        delta=2.0,
        terms=("batch-norm=2", "separation=2", "vendi=1"),
        members=2,
        view=Augmentation(flip=True, shift=1, rotate=10, contrast=0.2),
    )
    runtime = Runtime(accelerator="cpu", devices=processes, precision="32-true")
    return invert(network, config, image=(3, 12, 12), runtime=runtime)


def start(rank: int, port: int) -> None:
    """Be one of two processes as a launcher starts them."""
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    values |= {"NODE_RANK": 0, "GROUP_RANK": 0, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in values.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", TORCHELASTIC_RUN_ID="test")
    torch.set_num_threads(1)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def worker(rank: int, port: int, path: str) -> None:
    start(rank, port)
    seen, taken = [], []
    loop.step_bytes = lambda forward: taken.append(step_bytes(forward)) or taken[-1]
    with register_module_forward_pre_hook(lambda *call: seen.append(learnt_from(*call))):
        inversion = run(2, steps=4)
    found = (inversion.state_dict(), inversion.checks[-1].loss, max(seen), taken[0])
    torch.save(found, f"{path}/{rank}.pt")


def learnt_from(module, given) -> int:
    """Images of which a classifier is about to be asked for a gradient."""
    asked = isinstance(module, Classifier) and torch.is_grad_enabled() and given[0].requires_grad
    return len(given[0]) if asked else 0


def assert_nearly_all_close(found, wanted, name):
    """Adam divides a gradient by its size: one that is rounding alone may go either way."""
    apart = ~torch.isclose(found, wanted, atol=2e-5, rtol=1e-3)
    assert int(apart.sum()) <= wanted.numel() / 1000, name
    torch.testing.assert_close(found, wanted, atol=5e-4, rtol=1e-3, msg=name)


def test_two_processes_equal_one(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(loop, "step_bytes", lambda of: taken.append(step_bytes(of)) or taken[-1])
    one = run(1, steps=4)
    mp.spawn(worker, args=(free_port(), str(tmp_path)), nprocs=2)
    for rank in range(2):
        state, loss, seen, bytes_each = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        # nor does any hold more than its share of the graph, but for the layers of the others
        assert seen == 8 and taken[0] < bytes_each < 2 * taken[0]
        assert abs(loss - one.checks[-1].loss) < 1e-4
        for name, tensor in one.state_dict().items():
            assert_nearly_all_close(state[name], tensor, name)


def test_the_pairwise_terms_would_differ_on_a_share_of_the_batch():
    """Otherwise the test above could not tell a gathered batch from a share of it."""
    sample = draw_sample(16)
    halves = [
        cosine_similarity(
            sample._replace(prediction=Prediction(*(p[rows] for p in sample.prediction)))
        )
        for rows in (slice(0, 8), slice(8, 16))
    ]
    whole = cosine_similarity(sample)
    assert abs(float(whole - torch.stack(halves).mean())) > 1e-3


@pytest.fixture
def echo(monkeypatch):
    """As if another process held the same; gives what was gathered."""
    seen = []

    def all_gather(parts, tensor):
        seen.extend([*parts, tensor])
        for part in parts:
            part.copy_(tensor)

    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.mul_(2))
    return seen


def test_what_is_gathered_lies_in_rows_as_every_backend_takes_it(echo):
    images = torch.rand(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    assert torch.equal(_whole(images), torch.cat([images, images]))
    assert echo and all(tensor.is_contiguous() for tensor in echo)


def test_batch_norm_over_processes_stays_sound_where_a_channel_is_nearly_constant(echo):
    images = 50 + 0.01 * torch.randn(8, 16, 6, 6)
    shared, plain = GlobalBatchNorm2d(16), nn.BatchNorm2d(16)
    shared.processes = 2
    torch.testing.assert_close(shared(images), plain(images), atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(shared.running_mean, plain.running_mean)
    torch.testing.assert_close(shared.running_var, plain.running_var, atol=1e-3, rtol=1e-3)


def call(rank: int, port: int, path: str, arguments: list[str]) -> None:
    os.chdir(path)
    start(rank, port)
    Path(f"{rank}.txt").write_text(str(main(arguments)))


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(("more", "status"), [((), 0), (("--batch", "30"), 2)])
def test_no_process_waits_for_a_first_one_that_has_nothing_to_do(tmp_path, more, status):
    arguments = invert_arguments("run", "--no-student", "--precision", "32-true")
    assert main(arguments) == 0
    several = [*arguments, "--accelerator", "cpu", "--devices", "2", *more]
    mp.spawn(call, args=(free_port(), str(tmp_path), several), nprocs=2)
    assert Path("0.txt").read_text() == str(status)
    assert not Path("1.txt").exists()  # it left without a word


GO_ON = "give the same command again to go on where it was"


def interrupted_first(pid: int) -> None:
    os.kill(pid, signal.SIGINT)


def killed_helper(pid: int) -> None:
    os.kill(int(Path(f"/proc/{pid}/task/{pid}/children").read_text()), signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="it finds processes in /proc")
@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(
    ("stop", "status", "told"),
    [
        (interrupted_first, 130, f"error: interrupted; {GO_ON}"),
        (
            killed_helper,
            2,
            f"error: expected all processes to go on, found that another has ended; {GO_ON}",
        ),
    ],
)
def test_what_ends_one_of_several_processes_ends_all_in_one_sentence(stop, status, told):
    log = Path("run/metrics.jsonl")
    several = invert_arguments(
        "run", "--accelerator", "cpu", "--devices", "2", "--precision", "32-true", steps=100_000
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    # a shell's background job ignores it, and so would what is started from here
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [PROGRAM, *several], stderr=subprocess.PIPE, text=True, env=environment
    )
    signal.signal(signal.SIGINT, before)
    try:
        while process.poll() is None and not (log.is_file() and '"step"' in log.read_text()):
            time.sleep(0.1)
        stop(process.pid)
        said = process.communicate(timeout=120)[1]  # of all of them, when the last has ended
    finally:
        process.kill()
    assert process.returncode == status
    assert told in " ".join(said.split()) and said.count("error:") == 1
    assert "Traceback" not in said

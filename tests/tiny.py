"""Networks, loss terms and data that are small enough to run whole commands on.

Commands find the networks and terms by name, as ``tiny:build``: pytest has this folder on its
path.
"""

from __future__ import annotations

import copy
import errno
import os
import sys
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn

from preimage.cli import main
from preimage.conditioning import make_scheme
from preimage.types import Layer, Prediction, Sample

PROGRAM = Path(sys.executable).with_name("preimage")
CLASSES, SIDE = 3, 8
IMAGE = ("--image", "1", str(SIDE), str(SIDE))
FEW = (
    "--preset",
    "paper",
    "--width",
    "4",
    "--latent",
    "8",
    "--batch",
    "8",
    "--check-every",
    "5",
    "--samples",
    "30",
)


def invert_arguments(out, *more, model="tiny:build", steps=20):
    """A whole inversion that takes a second."""
    return ["invert", model, *IMAGE, *FEW, "--steps", str(steps), "--out", str(out), *more]


def train_arguments(data, out, *more, arch="mlp"):
    """A whole training that takes a second."""
    size = ("--width", "8", "--batch", "20", "--lr", "0.02", "--shift", "0", "--epochs", "4")
    return ["train", str(data), "--arch", arch, *size, "--out", str(out), *more]


HARDEN = (
    *("--width", "4", "--epochs", "4", "--batch", "20", "--lr", "0.02", "--shift", "0"),
    *("--noise", "40", "--garbage", "120", "--gain", "30", "--inversion-steps", "4"),
    *("--inversion-batch", "16", "--valid", "20", "--margin", "1.0"),
)


def ood_arguments(data, out, *more):
    """A whole hardening that takes a second."""
    flags = HARDEN[2:] if "--model" in more else HARDEN  # a model has its width
    return ["ood", "train", str(data), *flags, "--out", str(out), *more]


def run(capsys, *arguments):
    """Exit status, standard output and standard error of a command."""
    capsys.readouterr()
    status = main([str(part) for part in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def evaluate(capsys, shared, *more, out="eval"):
    return run(
        capsys,
        *("ood", "eval", shared / "hard", "--id", shared / "bands.npz", "--out", out),
        *("--most", "60", "--json", *more),
    )


def _network(inputs=SIDE * SIDE, classes=CLASSES):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, classes)
    ).eval()


def build():
    return _network()


def fit(network, batch, steps):
    """Train on ``batch(step)``, images and labels, and return the network for evaluation."""
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for step in range(steps):
        images, labels = batch(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network.eval()


def one_class():
    return _network(classes=1)


def of_four_pixels():
    return _network(inputs=16)


def nan_weights():
    network = _network()
    with torch.no_grad():
        network[1].weight[0, 0] = float("nan")
    return network


def map_of_logits():
    return nn.Sequential(nn.Conv2d(1, CLASSES, 3, padding=1), nn.Linear(SIDE, SIDE))


def broken():
    raise RuntimeError("first line\nsecond line")


class NanAfter:
    """A loss term that is zero, and NaN from a call on; used by name, so it counts for all."""

    calls, last_good = 0, 12

    def __call__(self, sample):
        self.calls += 1
        scale = 0.0 if self.calls <= self.last_good else float("nan")
        return sample.images.mean() * scale


nan_half_way = NanAfter()


def bands(count, seed=0):
    """Images (N, 8, 8) uint8 of `CLASSES` classes that differ in which rows are bright."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    images = random.integers(0, 100, (count, SIDE, SIDE), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 150
    return images, labels


def write_npz(path, train=120, test=60):
    (x_train, y_train), (x_test, y_test) = bands(train), bands(test, seed=1)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


def fail_once(monkeypatch, name, nth, code=errno.ENOSPC):
    """Let the nth call of ``os.<name>`` from now on fail, such as for a full disk."""
    real, calls = getattr(os, name), []

    def failing(*arguments, **options):
        calls.append(1)
        if len(calls) == nth:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, failing)
    return calls


class ScaledFabrics:
    """Makes fabrics of 16-mixed precision on the CPU, whose scale grows every other step."""

    def __init__(self):
        self.scalers = []

    def __call__(self, _):
        self.scalers.append(torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2))
        precision = MixedPrecision("16-mixed", "cpu", scaler=self.scalers[-1])
        return Fabric(accelerator="cpu", devices=1, plugins=[precision])

    def last(self):
        return self.scalers[-1].state_dict()


def killer(**when):
    """A callback that kills what reports to it at progress with these values."""

    def stop(progress, *_):
        if all(getattr(progress, name) == value for name, value in when.items()):
            raise KeyboardInterrupt

    return stop


class Memory:
    """A checkpoint in memory."""

    def __init__(self):
        self.state = None

    def load_state(self):
        return copy.deepcopy(self.state)

    def save_state(self, state):
        self.state = copy.deepcopy(state)


def standard(values):
    """A layer whose running statistics are 0 and 1."""
    channels = values.shape[1]
    return Layer(values, torch.zeros(channels), torch.ones(channels))


def draw_sample(batch=12, classes=4, features=7):
    """A sample of random numbers."""
    random = torch.Generator().manual_seed(1)
    labels = torch.arange(batch) % classes
    condition = make_scheme("vector", classes, (4, 4), 2.0, 1.0)(labels, random)
    prediction = Prediction(
        torch.randn(batch, classes, generator=random),
        torch.randn(batch, features, generator=random),
    )
    layers = tuple(
        standard(torch.randn(batch, *size, generator=random)) for size in ((3, 4, 4), (5, 2, 2))
    )
    return Sample(torch.rand(batch, 1, 8, 8, generator=random), condition, prediction, layers)

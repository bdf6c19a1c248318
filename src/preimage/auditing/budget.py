"""A stated time, how fast this machine is with this classifier, and what that leaves room for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from preimage.classifier import Classifier
from preimage.config import PRESETS, ReconstructConfig, Runtime
from preimage.errors import PreimageError
from preimage.inversion import predict
from preimage.leak.reconstruction import reconstruct
from preimage.loop import invert
from preimage.runtime import stream

LEAST = 20.0
"""Seconds below which nothing that is worth a page can be done."""

_UNITS = {"s": 1, "m": 60, "h": 3600}
_PROBE_IMAGES = 256
_PROBE_STEPS = 4
_LEAK_IMAGES = 100


@dataclass(frozen=True)
class Speed:
    """Seconds that pieces of work take here, measured with the classifier itself."""

    predict: float
    """For the classifier's answer on one image."""
    inversion_step: float
    """For a step of the natural preset."""
    reconstruction_step: float
    """For a step of reconstruction of :func:`leak_images` images."""


def parse_budget(text: str) -> float:
    """Seconds of a time such as 90s, 5m or 2h.

    Raises:
        PreimageError: for anything else, or too little for an audit.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip().lower())
    if found is None:
        raise PreimageError(
            f"expected a time such as 90s, 5m or 2h for --budget, found '{text}'; give a number "
            "with s, m or h"
        )
    seconds = float(found[1]) * _UNITS[found[2]]
    if seconds < LEAST:
        raise PreimageError(
            f"expected a budget of at least {LEAST:.0f}s, found {text}: nothing worth a page can "
            "be done in less; give more time"
        )
    return seconds


def leak_images(classes: int) -> int:
    """How many images an audit looks for: some of every class, but not thousands."""
    return min(max(_LEAK_IMAGES, 2 * classes), 4 * _LEAK_IMAGES)


def measure_speed(classifier: Classifier, runtime: Runtime, seed: int = 0) -> Speed:
    """Try each kind of work for a few steps; the first ones, which are slower, do not count.

    Raises:
        PreimageError: where the classifier cannot be inverted at all.
        DivergedError: where it answers NaN.
    """
    images = torch.rand(
        _PROBE_IMAGES, *classifier.spec.shape, generator=stream(seed, "audit speed")
    )
    predict(classifier, images[:2])
    start = time.perf_counter()
    predict(classifier, images)
    one = (time.perf_counter() - start) / _PROBE_IMAGES
    config = replace(
        PRESETS["natural"], steps=_PROBE_STEPS, members=1, check_every=10 * _PROBE_STEPS, seed=seed
    )
    inversion = _per_step(lambda tick: invert(classifier, config, runtime=runtime, on_step=tick))
    search = ReconstructConfig(
        steps=_PROBE_STEPS, images=leak_images(classifier.classes), seed=seed
    )
    leak = _per_step(lambda tick: reconstruct(classifier, search, runtime=runtime, on_step=tick))
    return Speed(one, inversion, leak)


def _per_step(run: Callable[[Callable[[object], None]], object]) -> float:
    times: list[float] = []
    run(lambda _: times.append(time.perf_counter()))
    return (times[-1] - times[0]) / max(1, len(times) - 1)

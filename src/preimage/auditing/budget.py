"""A stated time, and how fast this machine is with this classifier."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import torch

from preimage.classifier import Classifier
from preimage.config import PRESETS, ReconstructConfig, Runtime
from preimage.drawing import at_once
from preimage.errors import PreimageError
from preimage.inversion import predict
from preimage.leak.reconstruction import step_seconds
from preimage.loop import invert
from preimage.runtime import stream

LEAST = 20.0
"""Seconds below which nothing that is worth a page can be done."""

_UNITS = {"s": 1, "m": 60, "h": 3600}
_PROBE_IMAGES = 256
_PROBE_STEPS = 4
_LEAK_IMAGES = 60
_LEAST_BATCH = 2
_SLOW = 15.0
"""Seconds of steps after which no further ones are tried."""


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
    return min(max(_LEAK_IMAGES, 2 * classes), 5 * _LEAK_IMAGES)


def predict_seconds(classifier: Classifier, seed: int = 0) -> float:
    """Seconds that the classifier's answer on one image takes here."""
    count = at_once(classifier.spec, _PROBE_IMAGES)
    shape = (count, *classifier.spec.shape)
    images = torch.rand(shape, generator=stream(seed, "audit speed"))
    predict(classifier, images[:2])
    start = time.perf_counter()
    predict(classifier, images)
    return (time.perf_counter() - start) / count


def inversion_seconds(classifier: Classifier, runtime: Runtime, room: int, seed: int = 0) -> float:
    """Seconds that a step of the natural preset takes here, or would in as large a batch.

    Args:
        classifier: what would be inverted.
        runtime: device and precision.
        room: the largest batch that there is memory for.
        seed: everything random follows from it.

    Raises:
        PreimageError: where the classifier cannot be inverted at all.
        DivergedError: where it answers NaN.
    """
    natural = replace(PRESETS["natural"], members=1, check_every=10 * _PROBE_STEPS, seed=seed)
    batch = max(_LEAST_BATCH, min(at_once(classifier.spec, natural.batch), room))
    # more steps than are waited for: the last one would be followed by a check
    tried = replace(natural, batch=batch, steps=_PROBE_STEPS + 2)
    step = _pace(lambda heard: invert(classifier, tried, runtime=runtime, on_step=heard))
    return step * natural.batch / batch


def reconstruction_seconds(
    classifier: Classifier,
    runtime: Runtime,
    images: int,
    seed: int = 0,
    enough: float = float("inf"),
) -> float:
    """Seconds that a step of reconstruction takes here.

    Args:
        classifier: whose training images would be looked for.
        runtime: device and precision.
        images: how many are looked for.
        seed: everything random follows from it.
        enough: when the steps have taken so many seconds, no more are tried than it takes for every
            term to have had its turn, and fewer where a step alone takes as long.

    Raises:
        DivergedError: where the classifier answers NaN.
    """
    config = ReconstructConfig(images=images, start="noise", seed=seed)
    return step_seconds(classifier, config, runtime, _PROBE_STEPS, enough)


class _EnoughError(Exception):
    """Ends a probe."""


def _pace(run: Callable[[Callable[[object], None]], object]) -> float:
    """Seconds from step to step; the first one, and what goes before it, do not count.

    Args:
        run: calls what it is given after every step.
    """
    times: list[float] = []

    def heard(_: object) -> None:
        times.append(time.perf_counter())
        if len(times) > _PROBE_STEPS or times[-1] - times[0] >= _SLOW:
            raise _EnoughError

    with suppress(_EnoughError):
        run(heard)
    return (times[-1] - times[0]) / (len(times) - 1)

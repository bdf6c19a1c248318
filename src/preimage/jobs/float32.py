"""Work that is done in float32, whatever the machine is quickest in."""

from __future__ import annotations

from dataclasses import replace

import torch

from preimage.config import Precision, Runtime
from preimage.errors import PreimageError
from preimage.runtime import make_fabric
from preimage.training import one_device

_FLOAT32: Precision = "32-true"


def in_float32(runtime: Runtime, why: str) -> Runtime:
    """These settings with that precision.

    Args:
        runtime: the settings.
        why: what needs it, for the error's sentence.

    Raises:
        PreimageError: where another precision is asked for.
    """
    if runtime.precision not in ("auto", _FLOAT32):
        raise PreimageError(
            f"expected --precision {_FLOAT32} or auto, since {why}, found {runtime.precision}; "
            "leave it out"
        )
    return replace(runtime, precision=_FLOAT32)


def scoring_device(runtime: Runtime) -> torch.device:
    """The device that these settings name, for detectors and baselines.

    Raises:
        PreimageError: for a device that is not there, several of them, or numbers other than
            float32, which thresholds are chosen in.
    """
    whole = in_float32(runtime, "scores and thresholds are float32")
    return make_fabric(one_device(whole, "scoring")).device

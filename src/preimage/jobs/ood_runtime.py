"""Where detectors and baselines score images."""

from __future__ import annotations

from dataclasses import replace

import torch

from preimage.config import Precision, Runtime
from preimage.errors import PreimageError
from preimage.runtime import make_fabric
from preimage.training import one_device

_PRECISION: Precision = "32-true"


def scoring_device(runtime: Runtime) -> torch.device:
    """The device that these settings name.

    Raises:
        PreimageError: for a device that is not there, several of them, or numbers other than
            float32, which thresholds are chosen in.
    """
    if runtime.precision not in ("auto", _PRECISION):
        raise PreimageError(
            f"expected --precision {_PRECISION} or auto, since scores and thresholds are float32, "
            f"found {runtime.precision}; leave it out"
        )
    return make_fabric(replace(one_device(runtime, "scoring"), precision=_PRECISION)).device

"""Images so small that only what they show on the whole is left, to compare them by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SIDE = 8
_CHUNK = 500


def thumbnails(images: Tensor) -> Tensor:
    """Images (N, C, H, W) uint8 as coarse vectors (N, D) float32 in [0, 1]."""
    # in parts: all of them as floats would take four times their bytes, and more
    parts = images.split(_CHUNK)
    return torch.cat(
        [F.adaptive_avg_pool2d(part.float() / 255, _SIDE).flatten(1) for part in parts]
    )

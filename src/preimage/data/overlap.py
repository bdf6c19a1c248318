"""Images that two sets have in common."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from preimage.data.imageset import ImageSet


def not_among(known: ImageSet, images: ImageSet) -> ImageSet:
    """Those of `images` that are not, to the byte, among `known` of the same shape, in order."""
    seen = set(_digests(known.images))
    new = torch.tensor([digest not in seen for digest in _digests(images.images)])
    return images.subset(new.nonzero().flatten())


def _digests(images: Tensor) -> list[bytes]:
    """SHA-256 of each image (N, C, H, W) uint8."""
    return [hashlib.sha256(image.numpy().tobytes()).digest() for image in images.contiguous()]

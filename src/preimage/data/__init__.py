"""Labelled image sets as uint8 tensors, from a name, a hub id, a folder, parquet or npz.

>>> train = load("mnist", "train")
>>> train.images.shape, train.classes
(torch.Size([60000, 1, 28, 28]), 10)
"""

from __future__ import annotations

from preimage.data.imageset import ImageSet, convert_images
from preimage.data.known import KNOWN, KnownSet
from preimage.data.loading import KINDS, load
from preimage.data.sources import Kind, Request, Source

__all__ = [
    "KINDS",
    "KNOWN",
    "ImageSet",
    "Kind",
    "KnownSet",
    "Request",
    "Source",
    "convert_images",
    "load",
]

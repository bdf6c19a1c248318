"""Short names for what classifiers and images hold: a run tells by them what it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import torch
from torch import Tensor

from preimage.classifier import Classifier
from preimage.data.imageset import ImageSet

_LENGTH = 16


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The same for equal tensors of equal names, wherever they are and in whatever order.

    Args:
        tensors: names and tensors of any shape and type.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        # as bytes: NumPy knows no bfloat16
        flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(flat.numpy().tobytes())
    return digest.hexdigest()[:_LENGTH]


def bytes_digest(data: bytes) -> str:
    """Of a file's content: 16 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()[:_LENGTH]


def classifier_digest(classifier: Classifier | None) -> str | None:
    """The same for classifiers of equal weights, buffers, normalisation, shape and class names.

    What the network does with its weights is not in it: that comes from its code.

    Returns:
        16 hexadecimal digits; None for one that is not there.
    """
    if classifier is None:
        return None
    # a state_dict would lack mean, std and other buffers that no file keeps
    held = tensors_digest([*classifier.named_parameters(), *classifier.named_buffers()])
    about = [held, classifier.spec.shape, classifier.class_names, classifier.feature_layer]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:_LENGTH]


def images_digests(**sets: ImageSet | None) -> dict[str, str | None]:
    """Of the images and labels of each set, under its name; None for one that is not there."""
    return {
        name: None
        if images is None
        else tensors_digest([("images", images.images), ("labels", images.labels)])
        for name, images in sets.items()
    }

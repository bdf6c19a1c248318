"""What a network must be to be wrapped and inverted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from preimage.errors import PreimageError
from preimage.types import Prediction

if TYPE_CHECKING:
    from preimage.classifier import Classifier

_LAZY = (UninitializedParameter, UninitializedBuffer)
_ROUNDING = 5e-3
"""How far from 1 the probabilities of a softmax in half precision may sum up to."""


def check_weights(network: nn.Module) -> None:
    """Refuse weights and buffers that are not finite, or have no values yet.

    Raises:
        PreimageError: naming the first.
    """
    for kind, tensors in (
        ("weight", network.named_parameters()),
        ("buffer", network.named_buffers()),
    ):
        for name, tensor in tensors:
            if isinstance(tensor, _LAZY) or tensor.is_meta:
                raise PreimageError(
                    f"expected weights with values, found none yet in the {kind} '{name}'; run a "
                    "lazy network once, and load the weights of one made on the meta device"
                )
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise PreimageError(
                    f"expected finite weights, found NaN or infinity in the {kind} '{name}'; "
                    "load a checkpoint from before the training diverged"
                )


def check_answer(answer: Prediction) -> None:
    """Refuse an answer to two images that is no row of finite logits for each.

    Raises:
        PreimageError: for such a one, or for probabilities.
    """
    shape = tuple(answer.logits.shape)
    if len(shape) != 2 or shape[0] != 2:
        raise PreimageError(
            f"expected logits of shape (2, K) for 2 images, found {shape}; wrap the network so "
            "that it returns one row of class scores per image"
        )
    if not bool(torch.isfinite(answer.logits).all()):
        raise PreimageError(
            "expected finite logits, found NaN or infinity on random images in [0, 1]; "
            "check the normalisation (--mean, --std) and the weights"
        )
    if _are_probabilities(answer.logits):
        raise PreimageError(
            "expected logits, found probabilities (rows above 0 that sum to 1), by which no "
            "class would ever be sure; leave the network's last softmax out"
        )


def _are_probabilities(answers: Tensor) -> bool:
    sums_to_one = ((answers.sum(1) - 1).abs() < _ROUNDING).all()
    return answers.shape[1] > 1 and bool((answers > 0).all() and sums_to_one)


def check_gradient(
    classifier: Classifier, autocast: Callable[[], AbstractContextManager[object]] = nullcontext
) -> None:
    """Refuse a classifier that cannot be inverted, before any step.

    Args:
        classifier: on the device that it is to run on.
        autocast: makes the context that it is to run in.

    Raises:
        PreimageError: for one that does not run in this precision, or on other numbers of images
            than the two that it was met with, or has no gradient at its input.
    """
    if torch.is_inference_mode_enabled():
        raise PreimageError(
            "expected a place where gradients can be taken, found torch.inference_mode around the "
            "call; leave it out"
        )
    images = torch.full((3, *classifier.spec.shape), 0.5, device=classifier.mean.device)
    try:
        with autocast():
            logits = classifier(images.requires_grad_()).logits
    except PreimageError:
        raise
    except Exception as error:  # whatever the network's own code raises
        raise _does_not_run(classifier, len(images), error) from error
    if not logits.requires_grad:
        raise PreimageError(
            f"expected a classifier with a gradient at its input, found none in "
            f"'{classifier.name}'; take torch.no_grad, detach and the like out of its forward"
        )


def _does_not_run(classifier: Classifier, count: int, error: Exception) -> PreimageError:
    if runs(classifier, count):
        return PreimageError(
            f"expected a classifier that runs in mixed precision, found: {error_line(error)}; give "
            "--precision 32-true"
        )
    return PreimageError(
        f"expected a classifier that takes any number of images, found with {count}: "
        f"{error_line(error)}; take fixed numbers out of its forward"
    )


def runs(classifier: Classifier, count: int = 2) -> bool:
    """Whether it answers on `count` images (C, H, W) of its shape, as it is now."""
    images = torch.zeros(count, *classifier.spec.shape, device=classifier.mean.device)
    try:
        with torch.no_grad():
            classifier(images)
    except Exception:  # whatever the network's own code raises
        return False
    return True


def error_line(error: Exception) -> str:
    """The first line of an error's text, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

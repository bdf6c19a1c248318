"""Which images a classifier was trained on, told by its loss alone.

It works on any classifier and asks for nothing but its answers. What it tells is the gap between
training and unseen images, which is overfitting: a classifier that saw many images, or each of them
changed at random, has as small a loss on others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from preimage.errors import PreimageError
from preimage.leak.permutation import told_apart


@dataclass(frozen=True)
class LossMembership:
    """How well the loss tells training images from held-out ones."""

    loss_train: float
    """Mean over the training images of the cross-entropy, in nats."""
    loss_control: float
    """The same of held-out images."""
    auroc: float
    """Of the loss, in [0, 1]: 1 where every training image has a smaller one than every held-out
    image."""
    p_value: float
    """Chance of an AUROC at least this large if training images were no others."""


def image_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image, (N,) float64 in nats.

    Args:
        logits: (N, K).
        labels: (N,) int64 in [0, K).
    """
    # in float32 every image with a margin above about 17 would have a loss of just 0
    return F.cross_entropy(logits.double(), labels, reduction="none")


def loss_membership(
    train: Tensor, control: Tensor, seed: int = 0, labels: Tensor | None = None
) -> LossMembership:
    """Compare the loss of training images with that of held-out ones.

    Who takes images below some loss for training images (Yeom et al. 2018, "Privacy risk in machine
    learning: analyzing the connection to overfitting", arXiv 1709.01604, section 3, the threshold
    adversary) is right as often as the AUROC says, over all thresholds. If the classifier does not
    treat training images otherwise, the two groups can change places: the p-value is the share of
    1,999 random divisions of all images, or of each class, with at least that AUROC. Both groups
    must be drawn alike; otherwise it tells in what these differ.

    Args:
        train: (N,) losses of training images, at least 0; see :func:`image_losses`.
        control: (N,) of as many held-out images of the same distribution.
        seed: of the divisions.
        labels: (2 * N,) classes of both groups, one after the other, with as many images of each;
            None where classes do not matter.

    Raises:
        PreimageError: for groups of other sizes, labels that do not fit, or NaN.
    """
    train, control = train.detach().cpu(), control.detach().cpu()
    if train.ndim != 1 or train.shape != control.shape or not len(train):
        raise PreimageError(
            "expected losses (N,) of as many held-out images as training images, found "
            f"{tuple(train.shape)} and {tuple(control.shape)}; give as many of both"
        )
    both = torch.cat([train, control]).double()
    if bool(both.isnan().any()):
        raise PreimageError("expected losses without NaN, found some; check the classifier")
    auroc, p_value = told_apart(both, len(train), seed, labels)
    return LossMembership(float(train.mean()), float(control.mean()), auroc, p_value)

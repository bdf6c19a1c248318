"""How well scores tell out-of-distribution images from known ones.

Out-of-distribution is the positive class: larger scores mean more of it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from preimage.errors import PreimageError

RECALL = 0.95


class Separation(NamedTuple):
    """Each in [0, 1]."""

    auroc: float
    """Share of pairs of a known and an unknown image in the right order."""
    aupr_in: float
    """Average precision with the known images as the positive class."""
    aupr_out: float
    """Average precision with the unknown ones as the positive class."""
    fpr95: float
    """Share of known images above the threshold that 95 % of the unknown ones reach."""


def separation(known: Tensor, unknown: Tensor) -> Separation:
    """Compare scores of known images (N,) with scores of unknown ones (M,).

    Raises:
        PreimageError: for no scores on either side, or NaN.
    """
    scores = torch.cat([known, unknown]).double()
    if not len(known) or not len(unknown) or bool(scores.isnan().any()):
        raise PreimageError(
            f"expected scores without NaN on both sides, found {len(known)} of known and "
            f"{len(unknown)} of unknown images with {int(scores.isnan().sum())} NaN among them; "
            "check the classifier on these images"
        )
    target = torch.cat([torch.zeros(len(known)), torch.ones(len(unknown))]).long()
    # ranks, ties kept: torchmetrics takes values beyond [0, 1] for logits, and rounds them
    ranks = scores.unique(return_inverse=True)[1].double() / len(scores)
    return Separation(
        auroc=float(binary_auroc(ranks, target)),
        aupr_in=float(binary_average_precision(1 - ranks, 1 - target)),
        aupr_out=float(binary_average_precision(ranks, target)),
        fpr95=float((known.double() >= _reached(unknown.double())).double().mean()),
    )


def _reached(unknown: Tensor) -> Tensor:
    """The largest score that a share of at least :data:`RECALL` reaches."""
    wanted = -int(-RECALL * len(unknown) // 1)
    return unknown.sort(descending=True).values[wanted - 1]

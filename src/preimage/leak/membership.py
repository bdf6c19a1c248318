"""Which images a dense first layer was trained on, told by its weights alone.

What gradient descent writes into the first layer is a sum of multiples of the training images (see
:mod:`preimage.leak.unmixing`). Where plain gradient descent began from small first weights, and saw
fewer images than the layer has units and the image pixels, they lie in the span of the directions
that stand out there, whether or not these come apart into images; other images of the same kind do
not. Whoever holds an image can then tell whether it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from preimage.drawing import chunks
from preimage.errors import PreimageError
from preimage.leak.directions import directions
from preimage.leak.first_layer import FirstLayer
from preimage.leak.permutation import told_apart
from preimage.types import ImageSpec


@dataclass(frozen=True)
class Membership:
    """How well the first layer tells training images from held-out ones."""

    directions: int
    """That training wrote into the layer."""
    outside_train: float
    """Mean over the training images of the share of their length outside of these, in [0, 1]."""
    outside_control: float
    """The same of held-out images."""
    auroc: float
    """Of that share, in [0, 1]: 1 where every training image is nearer than every held-out one."""
    p_value: float
    """Chance of an AUROC at least this large if training images were no others."""


def membership(
    layer: FirstLayer,
    train: Tensor,
    control: Tensor,
    seed: int = 0,
    labels: Tensor | None = None,
) -> Membership | None:
    """Compare how far training images and held-out ones are from what training wrote.

    If the layer tells nothing of which images it was trained on, the two can change places: the
    p-value is the share of 1,999 random divisions of all images, or of each class, with at least
    that AUROC.

    Args:
        layer: on images of D pixels.
        train: (N, C, H, W) in [0, 1], D = C * H * W.
        control: as many held-out images of the same distribution.
        seed: of the divisions.
        labels: (2 * N,) classes of both groups, one after the other, with as many images of each;
            None where classes do not matter.

    Returns:
        The figures, those of guessing where no direction stands out of the noise of the first
        weights; None where training wrote nearly all of the layer, so that no direction is left to
        lie outside of.

    Raises:
        PreimageError: for groups of other shapes, or labels that do not fit.
    """
    if train.shape != control.shape or not len(train):
        raise PreimageError(
            "expected as many held-out images as training images, of one shape, found "
            f"{tuple(train.shape)} and {tuple(control.shape)}; give as many of both"
        )
    found = directions(layer.weights)
    if found is None:
        return None
    if not len(found):
        return Membership(0, 1.0, 1.0, 0.5, 1.0)
    count = len(train)
    rows = list(chunks(count, ImageSpec(*train.shape[1:])))
    parts = [_outside(images[part], layer, found) for images in (train, control) for part in rows]
    outside = torch.cat(parts)
    auroc, p_value = told_apart(outside, count, seed, labels)
    return Membership(
        directions=len(found),
        outside_train=float(outside[:count].mean()),
        outside_control=float(outside[count:].mean()),
        auroc=auroc,
        p_value=p_value,
    )


def _outside(images: Tensor, layer: FirstLayer, found: Tensor) -> Tensor:
    """Share of each input's length (N,), the constant included, outside of the directions."""
    inputs = images.flatten(1).cpu().double() * layer.scale + layer.shift
    rows = torch.cat([inputs, torch.ones(len(inputs), 1).double()], dim=1)
    rest = rows - (rows @ found.T) @ found
    return rest.norm(dim=1) / rows.norm(dim=1)

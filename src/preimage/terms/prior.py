"""What a classifier still knows of its training images, as a prior on the inverted ones."""

from __future__ import annotations

import torch
from torch import Tensor

from preimage.terms.registry import term
from preimage.types import Layer, Sample

_LEAST_VARIANCE = 1e-5


@term("batch-norm", layers=True)
def batch_norm(sample: Sample) -> Tensor:
    """KL(N(m, v) || N(0, 1)), mean over channels, then over layers, in nats.

    m and v are the batch's mean and variance of a channel that enters a batch norm, standardised
    by the running statistics, which are those of the training images. The prior is DeepInversion's
    (Yin et al. 2020, "Dreaming to Distill", eq. 4); the divergence replaces its differences of
    norms, so that no layer needs a weight of its own and a variance of 0 is infinitely wrong.
    At least 0, and 0 as well for a classifier without batch norm.
    """
    if not sample.layers:
        return sample.images.sum() * 0.0
    return torch.stack([_divergence(layer) for layer in sample.layers]).mean()


def _divergence(layer: Layer) -> Tensor:
    # channels last is how convolutions leave them: then this is a view, and the sums are quick
    rows = wide(layer.values.movedim(1, -1).flatten(0, -2))
    mean, square = rows.mean(0), rows.square().mean(0)
    # rounding can make the difference of two large numbers negative where all values are alike
    spread = (square - mean.square()).clamp_min(0)
    variance = spread / layer.std.square() + _LEAST_VARIANCE
    offset = (mean - layer.mean) / layer.std
    return (variance + offset.square() - 1 - variance.log()).mean() / 2


def wide(tensor: Tensor) -> Tensor:
    """The tensor in single precision at least, so that sums over many numbers are exact enough."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@term("smoothness")
def total_variation(sample: Sample) -> Tensor:
    """Mean absolute difference of neighbouring pixels, both ways, in [0, 2].

    Anisotropic total variation (Rudin, Osher & Fatemi 1992), as in feature visualisation.
    """
    images = sample.images
    rows, columns = images.diff(dim=2).abs(), images.diff(dim=3).abs()
    return rows.mean() + columns.mean()

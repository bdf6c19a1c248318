"""What a classifier still knows of its training images, as a prior on the inverted ones."""

from __future__ import annotations

import torch
from torch import Tensor

from preimage.terms.registry import term
from preimage.types import Sample

_LEAST_VARIANCE = 1e-5


@term("batch-norm", layers=True)
def batch_norm(sample: Sample) -> Tensor:
    """KL(N(m, v) || N(0, 1)), mean over channels, then over layers, in nats.

    m and v are the batch's mean and variance of a channel that enters a batch norm, standardised
    by the running statistics, which are those of the real images. The prior is DeepInversion's
    (Yin et al. 2020, "Dreaming to Distill", eq. 4); the divergence replaces its differences of
    norms, so that no layer needs a weight of its own and a variance of 0 is infinitely wrong.
    At least 0, and 0 as well for a classifier without batch norm.
    """
    if not sample.layers:
        return sample.images.sum() * 0.0
    return torch.stack([_divergence(layer) for layer in sample.layers]).mean()


def _divergence(layer: Tensor) -> Tensor:
    axes = [axis for axis in range(layer.ndim) if axis != 1]
    variance, mean = torch.var_mean(layer, axes, correction=0)
    variance = variance + _LEAST_VARIANCE
    return (variance + mean.square() - 1 - variance.log()).mean() / 2


@term("smoothness")
def total_variation(sample: Sample) -> Tensor:
    """Mean absolute difference of neighbouring pixels, both ways, in [0, 2].

    Anisotropic total variation (Rudin, Osher & Fatemi 1992), as in feature visualisation.
    """
    images = sample.images
    rows, columns = images.diff(dim=2).abs(), images.diff(dim=3).abs()
    return rows.mean() + columns.mean()

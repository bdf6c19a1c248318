"""Held-out checks while inverting, and what they mean in words.

The signs are those that the paper's critics and users meet first: mode collapse, poor accuracy,
vanishing gradients, and a loss weight that dominates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from preimage.diversity import vendi
from preimage.losses import Objective
from preimage.types import Layer, Prediction, Sample

COLLAPSED = 1.5
"""Fewer effective images per class than this is a collapse."""
POOR = 0.9
"""An inversion accuracy below this is poor."""
VANISHED = 1e-7
"""A root-mean-square gradient at the images below this moves nothing."""
DOMINANT = 0.95
"""A term with more of the gradient than this leaves the others without a say."""


class Finding(NamedTuple):
    """One sign of failure: what was measured, and what to try."""

    symptom: str
    """mode collapse, poor accuracy, vanishing gradients or dominant term."""
    text: str
    advice: str


@dataclass(frozen=True)
class Check:
    """One held-out check, on fresh images drawn as they are when sampling."""

    step: int
    accuracy: float
    """Share that the classifier puts in the wanted class."""
    confidence: float
    """Mean probability that it gives the wanted class."""
    diversity: float
    """Mean over classes of the Vendi score of pixels; 1 is one image a class."""
    diversity_limit: float
    """What `diversity` would be at most: the number of images checked per class."""
    loss: float
    """The objective on the last training batch."""
    gradient: float
    """Root mean square of the objective's gradient at the images."""
    shares: dict[str, float]
    """Each term's share of the summed gradient norms at the images."""


def gradient_shares(
    objective: Objective,
    see: Callable[[Tensor], tuple[Prediction, tuple[Layer, ...]]],
    sample: Sample,
) -> tuple[float, dict[str, float]]:
    """How hard each term pulls at the images.

    Args:
        objective: the weighted terms.
        see: maps images (B, C, H, W) to a prediction and the layers that the objective reads.
        sample: a training batch; only its images and conditions are used.

    Returns:
        Root mean square of the whole gradient over all pixels, and each term's share, in [0, 1],
        of the sum of the terms' gradient norms.
    """
    images = sample.images.detach().requires_grad_()
    fresh = Sample(images, sample.condition, *see(images))
    gradients = {name: _gradient(value, images) for name, value in objective.values(fresh).items()}
    whole = torch.stack(list(gradients.values())).sum(0)
    norms = {name: float(gradient.norm()) for name, gradient in gradients.items()}
    total = sum(norms.values()) or 1.0
    return float(whole.square().mean().sqrt()), {k: norm / total for k, norm in norms.items()}


def _gradient(value: Tensor, images: Tensor) -> Tensor:
    if not value.requires_grad:  # a term that has nothing to say of this batch
        return torch.zeros_like(images)
    (gradient,) = torch.autograd.grad(value, images, retain_graph=True, allow_unused=True)
    return torch.zeros_like(images) if gradient is None else gradient.float()


def class_diversity(images: Tensor, labels: Tensor, limit: int = 32) -> tuple[float, float]:
    """Mean over classes of the pixel Vendi score, and the greatest value it could have.

    Args:
        images: (N, C, H, W).
        labels: (N,).
        limit: images a class at most, to keep a check quick.
    """
    several = [k for k, count in zip(*labels.unique(return_counts=True), strict=True) if count > 1]
    groups = [images[labels == k][:limit].flatten(1) for k in several[:64]]
    if not groups:
        return float("nan"), float("nan")
    scores = [vendi(group) for group in groups]
    return sum(scores) / len(scores), sum(map(len, groups)) / len(groups)


def diagnose(checks: Sequence[Check]) -> list[Finding]:
    """Signs of failure at the last of `checks`, the gravest first; empty when all is well."""
    if not checks:
        return []
    last = checks[-1]
    found = [_poor(last), _collapse(last), _vanishing(last), _dominant(last)]
    return [finding for finding in found if finding is not None]


def _poor(last: Check) -> Finding | None:
    if last.accuracy >= POOR:
        return None
    return Finding(
        "poor accuracy",
        f"Only {last.accuracy:.1%} of fresh samples get the class they were asked for.",
        "Raise --margin, --spread or --beta, lower --dropout, or train for more --steps.",
    )


def _collapse(last: Check) -> Finding | None:
    if not last.diversity < min(COLLAPSED, last.diversity_limit / 2):
        return None
    return Finding(
        "mode collapse",
        f"A class holds the equivalent of {last.diversity:.2f} different images "
        f"(Vendi score of {last.diversity_limit:.0f} samples a class).",
        "Raise --dropout, or lower --spread and --margin; --gamma and --delta alone help little.",
    )


def _vanishing(last: Check) -> Finding | None:
    if last.gradient >= VANISHED or last.accuracy >= POOR:
        return None
    return Finding(
        "vanishing gradients",
        f"The objective's gradient at the images is {last.gradient:.1e} per pixel, too small to "
        "move them.",
        "Check the normalisation (--mean, --std), or lower the classifier's logits by a "
        "temperature.",
    )


def _dominant(last: Check) -> Finding | None:
    if len(last.shares) < 2 or not last.shares:
        return None
    name, share = max(last.shares.items(), key=lambda item: item[1])
    troubled = last.accuracy < POOR or last.diversity < COLLAPSED
    if share <= DOMINANT or not troubled:
        return None
    return Finding(
        "dominant term",
        f"The term '{name}' makes up {share:.0%} of the gradient at the images.",
        f"Lower the weight of '{name}', or raise the others'.",
    )

"""The terms of a reconstruction: what training images obey."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from preimage.classifier import Classifier
from preimage.config import ReconstructConfig
from preimage.leak.terms import (
    adversarial_step,
    gradient_norm,
    pixel_range,
    sign_noise,
    stationarity,
)
from preimage.runtime import stream
from preimage.terms.paper import cosine_similarity, cross_entropy, kl_divergence, orthogonality
from preimage.terms.prior import total_variation
from preimage.types import Condition, Prediction, Sample


@dataclass(frozen=True)
class Objective:
    """What images of given classes are asked for.

    The paper's objective (arXiv 2411.17777, application 3) and the stationarity of Haim et al. 2022
    (arXiv 2206.07758).
    """

    classifier: Classifier
    """Frozen, with weights in the graph where a term needs their gradients."""
    condition: Condition
    """Of N images, on the classifier's device."""
    labels: Tensor
    """(N,) int64, likewise."""
    config: ReconstructConfig

    def values(
        self, names: Iterable[str], images: Tensor, multipliers: Tensor, step: int
    ) -> dict[str, Tensor]:
        """The named terms, each a scalar with gradients, without weights.

        Args:
            names: out of :data:`preimage.limits.SAYS`.
            images: (N, C, H, W); values outside [0, 1] are seen as black and white.
            multipliers: (N,), before the softplus that keeps them at 0 or more.
            step: the noise follows from it.
        """
        made = _Step(self, images, multipliers, step)
        return {name: getattr(made, name)() for name in names}

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """As :func:`weights_of`, asked for once."""
        return weights_of(self.classifier)


def weights_of(classifier: Classifier) -> list[nn.Parameter]:
    """The classifier's weights that are in the graph, and that its answer hangs on.

    A head that only training uses has no gradient.
    """
    weights = [p for p in classifier.parameters() if p.requires_grad]
    answer = classifier(classifier.mean.expand(1, *classifier.spec.shape)).logits.sum()
    if not weights or not answer.requires_grad:
        return []
    gradients = torch.autograd.grad(answer, weights, allow_unused=True)
    return [p for p, found in zip(weights, gradients, strict=True) if found is not None]


class _Step:
    """The terms of one step by name; what several share is made once."""

    def __init__(self, objective: Objective, images: Tensor, multipliers: Tensor, step: int):
        self.of, self.images, self.multipliers = objective, images, multipliers
        self.inside = images + (images.clamp(0, 1) - images).detach()
        self.prediction = objective.classifier(self.inside)
        self.sample = Sample(images, objective.condition, self.prediction)
        self.random = stream(objective.config.seed, "noise", step)
        self._moved: dict[str, Sample] = {}

    def kl(self) -> Tensor:
        return kl_divergence(self.sample)

    def ce(self) -> Tensor:
        return cross_entropy(self.sample)

    def cosine(self) -> Tensor:
        return cosine_similarity(self.sample)

    def orthogonality(self) -> Tensor:
        return orthogonality(self.sample)

    def kl_noise(self) -> Tensor:
        return kl_divergence(self._noisy())

    def ce_noise(self) -> Tensor:
        return cross_entropy(self._noisy())

    def kl_adversarial(self) -> Tensor:
        return kl_divergence(self._attacked())

    def ce_adversarial(self) -> Tensor:
        return cross_entropy(self._attacked())

    def smoothness(self) -> Tensor:
        return total_variation(self.sample)

    def pixels(self) -> Tensor:
        return pixel_range(self.images)

    def gradient(self) -> Tensor:
        return gradient_norm(self.prediction.logits, self.of.labels, self.of.parameters)

    def stationarity(self) -> Tensor:
        logits, labels = self.prediction.logits, self.of.labels
        multipliers = F.softplus(self.multipliers)  # at least 0
        return stationarity(logits, labels, multipliers, self.of.parameters)

    def _ask(self, images: Tensor) -> Tensor:
        prediction: Prediction = self.of.classifier(images)
        return prediction.logits

    def _noisy(self) -> Sample:
        epsilon = self.of.config.epsilon
        return self._seen("noise", lambda: sign_noise(self.inside, epsilon, self.random))

    def _attacked(self) -> Sample:
        epsilon, labels = self.of.config.epsilon, self.of.labels
        return self._seen(
            "attack", lambda: adversarial_step(self._ask, self.inside, labels, epsilon)
        )

    def _seen(self, name: str, move: Callable[[], Tensor]) -> Sample:
        if name not in self._moved:
            moved = move()
            prediction = self.of.classifier(moved)
            self._moved[name] = Sample(moved, self.of.condition, prediction)
        return self._moved[name]

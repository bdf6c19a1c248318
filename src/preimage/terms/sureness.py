"""How sure the classifier is to be of an image, which differs from image to image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from preimage.terms.registry import term
from preimage.types import Sample

PER_NAT = 0.5
"""Temperature for each nat by which the target's largest probability exceeds the next."""
LEAST_TEMPERATURE = 1.0
MOST_TEMPERATURE = 3.0
"""Limits of the temperature. At 1 this is the cross-entropy; a one-hot target has the most."""
_LEAST = 1e-12


@term("sureness")
def sureness(sample: Sample) -> Tensor:
    """Cross-entropy at a temperature of each image's own, mean over the batch, in nats.

    ``T * CE(logits / T, label)``, T (B,) from the log-ratio of the two largest entries of the
    condition's target, which the generator knows. Cross-entropy asks for nothing more once the
    classifier is some 98 % sure, but its answers on training images have margins that are larger
    and differ much; dividing the logits by T asks for T times the margin (the temperature of
    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", eq. 1). At least 0.
    """
    logits, label = sample.prediction.logits, sample.condition.label
    temperature = _temperature(sample.condition.target).to(logits.dtype)
    loss = F.cross_entropy(logits / temperature[:, None], label, reduction="none")
    return (temperature * loss).mean()


def _temperature(target: Tensor) -> Tensor:
    """Of targets (B, K), in [:data:`LEAST_TEMPERATURE`, :data:`MOST_TEMPERATURE`], (B,)."""
    first, second = target.clamp_min(_LEAST).log().topk(2, dim=1).values.unbind(1)
    return ((first - second) * PER_NAT).clamp(LEAST_TEMPERATURE, MOST_TEMPERATURE)

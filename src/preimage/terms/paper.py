"""The four terms of "Network Inversion and Its Applications" (arXiv 2411.17777)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from preimage.terms.registry import term
from preimage.types import Sample


@term("kl")
def kl_divergence(sample: Sample) -> Tensor:
    """KL(target || softmax(logits)), mean over the batch, in nats (alpha).

    At least 0, and 0 just where the classifier's distribution is the target.
    """
    log_probabilities = F.log_softmax(sample.prediction.logits, dim=1)
    return F.kl_div(log_probabilities, sample.condition.target, reduction="batchmean")


@term("ce")
def cross_entropy(sample: Sample) -> Tensor:
    """Cross-entropy of the logits with the label, mean over the batch, in nats (beta)."""
    return F.cross_entropy(sample.prediction.logits, sample.condition.label)


@term("cosine")
def cosine_similarity(sample: Sample) -> Tensor:
    """Mean cosine similarity of the features of different images, in [-1, 1] (gamma)."""
    similarity = _gram(sample.prediction.features)
    count = len(similarity)
    if count < 2:
        return similarity.sum() * 0.0
    return (similarity.sum() - similarity.diagonal().sum()) / (count * (count - 1))


@term("orthogonality")
def orthogonality(sample: Sample) -> Tensor:
    """||F F^T - I||^2 / (B (B - 1)), F the row-normalised features (B, D) (delta).

    The paper's term without the division grows with the square of the batch; divided by the
    number of pairs it is the mean squared cosine, in [0, 1], and a weight serves every batch size.
    """
    similarity = _gram(sample.prediction.features)
    count = len(similarity)
    if count < 2:
        return similarity.sum() * 0.0
    identity = torch.eye(count, device=similarity.device)
    return (similarity - identity).square().sum() / (count * (count - 1))


def _gram(features: Tensor) -> Tensor:
    unit = F.normalize(features, dim=1)
    return unit @ unit.T

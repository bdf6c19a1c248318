"""How alike are reconstructions and real images, and which belongs to which?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from preimage.runtime import stream

WINDOW = 7
"""Side of SSIM's uniform window in pixels, as in Wang et al. 2004 with small images."""
UNSEEN = -1.0
"""Similarity of pairs that are not compared: the least that SSIM can be."""

_CANDIDATES = 32
_NUMBERS = 2**22
"""Pixels of one side of the pairs that are compared at once: SSIM holds some sixty copies."""


def similarities(images: Tensor, others: Tensor, candidates: int = _CANDIDATES) -> Tensor:
    """Structural similarity of each image to each of the others.

    Only the `candidates` others with the highest correlation of pixels are compared with an image:
    what is structurally like it is among them. Of equal ones, as all are to a blank image, some are
    taken at random, wherever they stand.

    Args:
        images: (R, C, H, W) in [0, 1].
        others: (N, C, H, W) in [0, 1].
        candidates: how many of the others to compare an image with.

    Returns:
        (R, N), SSIM (Wang et al. 2004) with a uniform window of :data:`WINDOW` pixels in [-1, 1];
        :data:`UNSEEN` where it was not taken.
    """
    images, others = images.cpu(), others.cpu()
    count = min(candidates, len(others))
    order = torch.randperm(len(others), generator=stream("ties", len(others)))
    nearest = order[(_centred(images) @ _centred(others[order]).T).topk(count, dim=1).indices]
    rows = torch.arange(len(images)).repeat_interleave(count)
    columns = nearest.flatten()
    found = torch.full((len(images), len(others)), UNSEEN)
    pairs = max(1, _NUMBERS // images[0].numel())
    for row, column in zip(rows.split(pairs), columns.split(pairs), strict=True):
        found[row, column] = ssim(images[row], others[column])
    return found


def ssim(images: Tensor, others: Tensor) -> Tensor:
    """Structural similarity (B,) of pairs (B, C, H, W) in [0, 1]."""
    values = structural_similarity_index_measure(
        images.float(),
        others.float(),
        gaussian_kernel=False,
        kernel_size=WINDOW,
        data_range=1.0,
        reduction="none",
    )
    assert isinstance(values, Tensor)
    return values.reshape(len(images))


def feature_similarities(features: Tensor, others: Tensor) -> Tensor:
    """Cosine similarity (R, N) of an evaluator's features (R, D) and (N, D)."""
    return F.normalize(features, dim=1) @ F.normalize(others, dim=1).T


def assign(similarity: Tensor, labels: Tensor, other_labels: Tensor) -> Tensor:
    """Give each reconstruction of a class a real image of that class, each at most one.

    The assignment with the largest sum of similarities within each class, negative ones taken as 0
    (scipy's ``linear_sum_assignment``).

    Args:
        similarity: (R, N).
        labels: (R,) classes of the reconstructions.
        other_labels: (N,) classes of the real images.

    Returns:
        (P, 2) int64 pairs of rows and columns of `similarity`.
    """
    pairs = []
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().flatten()
        columns = (other_labels == label).nonzero().flatten()
        if len(columns):
            # a pair that was not compared is worth nothing, and no more of a loss than one unlike
            mine = similarity[rows][:, columns].cpu().double().clamp_min(0).numpy()
            one, other = linear_sum_assignment(mine, maximize=True)
            pairs.append(torch.stack([rows[one], columns[other]], dim=1))
    return torch.cat(pairs) if pairs else torch.empty(0, 2, dtype=torch.int64)


def matched(similarity: Tensor, labels: Tensor, other_labels: Tensor) -> Tensor:
    """Similarity (P,) of each pair that :func:`assign` makes of the same arguments."""
    rows, columns = assign(similarity, labels, other_labels).unbind(1)
    return similarity[rows, columns]


def _centred(images: Tensor) -> Tensor:
    flat = images.flatten(1).float()
    return F.normalize(flat - flat.mean(1, keepdim=True), dim=1)

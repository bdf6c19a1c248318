"""How varied a set of vectors is, and how well one set covers another.

Pure functions of tensors, in float64 on the CPU: the same numbers whatever device made the vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from preimage.errors import PreimageError

_CHUNK = 512


def vendi(vectors: Tensor) -> float:
    """Vendi score: the effective number of different vectors in a set.

    The exponential of the Shannon entropy of the eigenvalues of K / N, K the cosine similarities
    (Friedman & Dieng 2022, "The Vendi Score", definition 3.1). It grows with N, so compare sets
    of one size only. A vector of zeros has no direction; all such count as one more direction,
    orthogonal to every other.

    Args:
        vectors: (N, D) of any real type, N at least 1; not modified.

    Returns:
        From 1, all vectors point the same way, to N, all are orthogonal.

    Raises:
        PreimageError: for no vectors, or NaN or infinity among them.
    """
    unit = _unit(_checked(vectors, "the Vendi score"))
    count, size = unit.shape
    # both products have the same non-zero eigenvalues: take the smaller
    similarity = unit @ unit.T if count <= size else unit.T @ unit
    eigenvalues = torch.linalg.eigvalsh(similarity / count).clamp_min(0)
    return float(torch.special.entr(eigenvalues).sum().exp())


def within_class_vendi(vectors: Tensor, labels: Tensor, counts: Tensor) -> float:
    """Mean over classes of the Vendi score of the first ``counts[k]`` vectors of class k.

    Two sets are compared fairly when both are given the same counts. Classes with a count below 2
    are left out.

    Args:
        vectors: (N, ...), flattened to (N, D).
        labels: (N,) int64 in [0, K).
        counts: (K,) int64.

    Returns:
        From 1 to the largest count.

    Raises:
        PreimageError: when a class has fewer vectors than its count, or no count is above 1.
    """
    present = torch.bincount(labels, minlength=len(counts))
    short = (present[: len(counts)] < counts).nonzero().flatten().tolist()
    if short:
        k = short[0]
        raise PreimageError(
            f"expected at least {int(counts[k])} vectors of class {k} for the within-class Vendi "
            f"score, found {int(present[k])}; draw more or lower its count"
        )
    measured = (counts >= 2).nonzero().flatten().tolist()
    if not measured:
        raise PreimageError(
            f"expected a class with at least 2 vectors for the within-class Vendi score, found "
            f"at most {int(counts.max()) if len(counts) else 0} in each; use more samples"
        )
    scores = [
        vendi(vectors[(labels == k).nonzero().flatten()[: counts[k]]].flatten(1)) for k in measured
    ]
    return sum(scores) / len(scores)


def first_of_each_class(labels: Tensor, counts: Tensor) -> Tensor:
    """Mark the first ``counts[k]`` items of every class k.

    Args:
        labels: (N,) int64 in [0, K).
        counts: (K,) int64.

    Returns:
        (N,) bool.
    """
    order = labels.argsort(stable=True)
    totals = torch.bincount(labels, minlength=len(counts))
    starts = totals.cumsum(0) - totals
    rank = torch.empty_like(labels)
    rank[order] = torch.arange(len(labels)) - starts[labels[order]]
    return rank < counts[labels]


def precision_coverage(real: Tensor, fake: Tensor, k: int = 5) -> tuple[float, float]:
    """How much of `fake` is like `real`, and how much of `real` is met by `fake`.

    Round every real sample lies a closed ball that reaches to its k-th nearest other real sample.
    Precision is the share of fakes inside some ball (Kynkäänniemi et al. 2019, "Improved Precision
    and Recall Metric", eq. 1 and 2); coverage is the share of balls with a fake inside (Naeem et
    al. 2020, "Reliable Fidelity and Diversity Metrics", eq. 9). A distance within rounding of the
    radius counts as inside.

    Args:
        real: (N, D), N at least k + 1.
        fake: (M, D), M at least 1; take M = N and the same classes where sets are compared.
        k: neighbour that sets the radius, at least 1.

    Returns:
        Precision and coverage, each in [0, 1]. About N x D plus 512 x N numbers of memory.

    Raises:
        PreimageError: for fewer than k + 1 real samples, no fakes, vectors of different size, or
            NaN or infinity among them.
    """
    real, fake = _checked(real, "the real features"), _checked(fake, "the generated features")
    if k < 1 or len(real) <= k:
        raise PreimageError(
            f"expected k of at least 1 and at least k + 1 real samples for precision and coverage, "
            f"found k = {k} and {len(real)} samples; give more real images or lower k"
        )
    if real.shape[1] != fake.shape[1]:
        raise PreimageError(
            f"expected real and generated features of one size, found {real.shape[1]} and "
            f"{fake.shape[1]}; take both from the same evaluator"
        )
    # distances by matrix products lose digits far from the origin, and more the larger the norms
    center = real.mean(0)
    real, fake = real - center, fake - center
    rounding = 1e-7 * max(float(real.norm(dim=1).max()), float(fake.norm(dim=1).max()))
    inside = torch.zeros(len(fake), dtype=torch.bool)
    covered = 0
    for start in range(0, len(real), _CHUNK):
        chunk = real[start : start + _CHUNK]
        # the nearest of the k + 1 is the sample itself
        radius = torch.cdist(chunk, real).topk(k + 1, dim=1, largest=False).values[:, k:]
        within = torch.cdist(chunk, fake) <= radius + rounding
        inside |= within.any(0)
        covered += int(within.any(1).sum())
    return float(inside.double().mean()), covered / len(real)


def _checked(vectors: Tensor, what: str) -> Tensor:
    if vectors.ndim != 2 or len(vectors) == 0:
        raise PreimageError(
            f"expected vectors of shape (N, D) with N at least 1 for {what}, found "
            f"{tuple(vectors.shape)}; flatten images first and draw at least one"
        )
    vectors = vectors.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(vectors).all()):
        raise PreimageError(
            f"expected finite numbers for {what}, found NaN or infinity; "
            "check that the inversion and the classifier are sound"
        )
    return vectors


def _unit(vectors: Tensor) -> Tensor:
    """Rows of length 1; rows of zeros share an axis that is added for them."""
    norm = vectors.norm(dim=1, keepdim=True)
    empty = norm == 0
    unit = vectors / norm.where(~empty, torch.ones_like(norm))
    return torch.cat([unit, empty.to(unit.dtype)], dim=1) if bool(empty.any()) else unit

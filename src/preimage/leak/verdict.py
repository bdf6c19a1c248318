"""Does a classifier leak its training images? A test with a control group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from preimage.errors import PreimageError
from preimage.leak.matching import UNSEEN
from preimage.leak.permutation import PERMUTATIONS, times_reached
from preimage.runtime import stream

Answer = Literal["leaks", "no evidence of a leak", "can't tell"]

LEVEL = 0.01
"""A p-value up to this is a leak; there is no evidence of one above :data:`DOUBT`."""
DOUBT = 0.1
RECOVERED = 0.4
"""A similarity above this counts as a recovered image, as is usual with SSIM (Haim et al. 2022)."""
COPIED = 0.8
"""A similarity above this is hardly chance even between simple images such as digits."""
FEWEST = 20
"""Images on each side, and reconstructions, below which nothing can be said."""

_NEAREST = 64
_RESAMPLES = 2000


@dataclass(frozen=True)
class Verdict:
    """An answer, its reason, and the figures behind it."""

    verdict: Answer
    reason: str
    """One sentence."""
    p_value: float
    """Chance of a difference at least this large if training images were no others."""
    effect: float
    """Mean difference of nearest similarities over its standard deviation (Cohen's d_z)."""
    difference: float
    """Mean of the nearest training similarity less the nearest held-out one."""
    interval: tuple[float, float]
    """95 % bootstrap interval of `difference` over the reconstructions. The images stay as they
    are, so it does not say what others would give; that is what the p-value is about."""
    similarity_train: float
    """Mean over the reconstructions of the similarity to the nearest training image."""
    similarity_control: float
    """The same of the nearest held-out image."""
    above_train: int
    """Reconstructions whose nearest training image is more similar than :data:`RECOVERED`."""
    above_control: int
    """The same of held-out images."""


def judge(train: Tensor, control: Tensor, seed: int = 0) -> Verdict:
    """Compare reconstructions with training images and with as many held-out ones.

    If the classifier tells nothing of which images it was trained on, training and held-out images
    can change places. So the p-value is the share of random divisions of all of them into two
    halves that differ as much. It is exact whatever the reconstructions are, and however these
    depend on each other. Two differences are looked at: the mean nearest similarity, and the number
    above :data:`RECOVERED`; the smaller p-value of the two counts double.

    Args:
        train: similarity (R, N) of each reconstruction to each training image, larger is nearer.
        control: the same to held-out images of the same distribution, (R, N).
        seed: of the divisions.

    Raises:
        PreimageError: for shapes that differ, or NaN.
    """
    train, control = train.cpu(), control.cpu()
    _check(train, control)
    p_value, by_number = _p_value(torch.cat([train, control], dim=1), train.shape[1], seed)
    train, control = _compared(train, control)
    near = [part.amax(1) for part in (train, control)]
    gap = near[0] - near[1]
    above = [int((part > RECOVERED).sum()) for part in near]
    answer, reason = _answer(train.shape, p_value, by_number, float(gap.mean()), above)
    return Verdict(
        verdict=answer,
        reason=reason,
        p_value=p_value,
        effect=float(gap.mean() / gap.std().clamp_min(1e-12)),
        difference=float(gap.mean()),
        interval=_interval(gap, seed),
        similarity_train=float(near[0].mean()),
        similarity_control=float(near[1].mean()),
        above_train=above[0],
        above_control=above[1],
    )


def _check(train: Tensor, control: Tensor) -> None:
    if train.ndim != 2 or train.shape != control.shape or not train.numel():
        raise PreimageError(
            "expected similarities (R, N) to as many held-out images as training images, found "
            f"{tuple(train.shape)} and {tuple(control.shape)}; give as many of both"
        )
    if bool(train.isnan().any() | control.isnan().any()):
        raise PreimageError("expected similarities without NaN, found some; check the images")


def _compared(*groups: Tensor) -> tuple[Tensor, ...]:
    """Similarities, pairs that were not compared as unlike as the least like that were."""
    both = torch.cat(groups, dim=1)
    least = both.masked_fill(both <= UNSEEN, torch.inf).amin(1, keepdim=True)
    least = least.nan_to_num(posinf=UNSEEN)
    return tuple(torch.where(group <= UNSEEN, least, group) for group in groups)


def _answer(
    shape: torch.Size, p_value: float, by_number: bool, difference: float, above: list[int]
) -> tuple[Answer, str]:
    reconstructions, images = shape
    if min(shape) < FEWEST:
        return "can't tell", (
            f"{reconstructions} reconstructions and {images} images on each side are too few; at "
            f"least {FEWEST} of each are needed."
        )
    found = (
        f"{above[0]} of {reconstructions} reconstructions resemble a training image and {above[1]} "
        f"a held-out one; the nearest similarities differ by {difference:+.3f} (p = {p_value:.4f})"
    )
    if p_value <= LEVEL:
        what = (
            "More reconstructions resemble training images than held-out ones"
            if by_number
            else "Training images are nearer than held-out ones"
        )
        return "leaks", f"{what}: {found}."
    if p_value > DOUBT:
        return (
            "no evidence of a leak",
            f"Training images are not nearer than chance may have it: {found}.",
        )
    return "can't tell", f"The difference may be chance: {found}; more images would tell."


def _p_value(both: Tensor, count: int, seed: int) -> tuple[float, bool]:
    """One-sided, over random divisions of the columns; the first `count` are the true half.

    With it, whether the number above :data:`RECOVERED` decided, and not the mean.
    """
    values, order = both.sort(dim=1, descending=True)
    # the nearest of a half is almost surely among these few: all others miss it with 2^-64
    values, order = values[:, :_NEAREST], order[:, :_NEAREST]
    columns = both.shape[1]

    def differences(orders: Tensor) -> Tensor:
        return _differences(values, order, orders < count)

    truth = differences(torch.arange(columns)[None])[0]
    reached = times_reached(truth, differences, columns, stream(seed, "verdict"))
    shares = (1 + reached) / (1 + PERMUTATIONS)
    return min(1.0, len(shares) * float(shares.min())), bool(shares[1] < shares[0])


def _differences(values: Tensor, order: Tensor, members: Tensor) -> Tensor:
    """Of the nearest similarity within and without the members: mean, and share recovered.

    Args:
        values: (R, M) the largest similarities of each row, sorted.
        order: (R, M) their columns.
        members: (P, columns) bool, P divisions.

    Returns:
        (P, 2).
    """
    within = members[:, order]
    near = _first(values, within), _first(values, ~within)
    recovered = [(part > RECOVERED).double().mean(1) for part in near]
    means = (near[0] - near[1]).double().mean(1)
    return torch.stack([means, recovered[0] - recovered[1]], dim=1)


def _first(values: Tensor, chosen: Tensor) -> Tensor:
    """The largest chosen value of each row (P, R); a row's last where none is chosen."""
    place = torch.where(chosen.any(2), chosen.int().argmax(2), values.shape[1] - 1)
    return values.expand(len(chosen), -1, -1).gather(2, place[:, :, None])[:, :, 0]


def _interval(gap: Tensor, seed: int) -> tuple[float, float]:
    random = stream(seed, "interval")
    rows = torch.randint(len(gap), (_RESAMPLES, len(gap)), generator=random)
    low, high = gap[rows].mean(1).quantile(gap.new_tensor([0.025, 0.975])).tolist()
    return low, high

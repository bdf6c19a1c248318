"""Which penultimate units tell the classes apart, and what drives them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from preimage.classifier import Classifier
from preimage.explain.codes import Codes
from preimage.inversion import Inversion, predict
from preimage.types import Prediction

_LR = 0.05
_FLOOR = 1e-12


@dataclass(frozen=True)
class UnitImages:
    """Images that drive one unit."""

    unit: int
    images: Tensor
    """(N, C, H, W) in [0, 1], the strongest first."""
    values: Tensor
    """(N,), what the unit gives."""
    usual: tuple[float, float]
    """Mean and largest of the unit's values over the usual inversions."""


def telling_units(features: Tensor, labels: Tensor, count: int) -> list[int]:
    """The units whose variance lies most between the classes, not within them.

    The ratio is that of one-way analysis of variance; units that never change are left out. No
    class has more than its share of them, by the class in which a unit is highest: one class often
    has all of the first ones.

    Args:
        features: (N, D), of inversions or real images.
        labels: (N,) int64.
        count: units at most.
    """
    features = features.double()
    groups = [features[labels == k] for k in labels.unique()]
    total = features.var(0, correction=0)
    within = sum(own.var(0, correction=0) * len(own) for own in groups) / len(features)
    share = torch.where(total > _FLOOR, 1 - within / total.clamp_min(_FLOOR), -1.0)
    favourite = torch.stack([own.mean(0) for own in groups]).argmax(0)
    room = Counter({k: -(-count // len(groups)) for k in range(len(groups))})
    found: list[int] = []
    for unit in share.argsort(descending=True, stable=True).tolist():
        if share[unit] >= 0 and room[int(favourite[unit])] > 0 and len(found) < count:
            room[int(favourite[unit])] -= 1
            found.append(unit)
    return found


def unit_images(
    classifier: Classifier,
    inversion: Inversion,
    units: Sequence[int],
    *,
    count: int = 6,
    steps: int = 40,
    seed: int = 0,
) -> list[UnitImages]:
    """Look, among the images that the generator can draw, for those that drive a unit most.

    Starts from the inversions of all classes that do so already, and goes on in their latents and
    conditions.

    Args:
        classifier: with D features.
        inversion: of that classifier.
        units: indices into the features.
        count: images a unit.
        steps: of Adam.
        seed: names the inversions to start from.
    """
    labels = torch.arange(max(200, inversion.classes)) % inversion.classes
    codes = Codes.draw(inversion, labels, seed)
    with torch.no_grad():
        usual = predict(classifier, codes.images()).features
    starts = torch.cat([usual[:, unit].argsort(descending=True)[:count] for unit in units])
    wanted = torch.tensor(list(units)).repeat_interleave(count)

    def loss(rows: Tensor, answer: Prediction) -> Tensor:
        return -answer.features.gather(1, wanted[rows][:, None])[:, 0]

    moved = codes.rows(starts).moved(classifier, loss, steps, _LR)
    with torch.no_grad():
        images = moved.images().cpu()
    reached = predict(classifier, images).features.gather(1, wanted[:, None])[:, 0]
    return [
        _ordered(unit, images[wanted == unit], reached[wanted == unit], usual[:, unit])
        for unit in units
    ]


def _ordered(unit: int, images: Tensor, values: Tensor, usual: Tensor) -> UnitImages:
    order = values.argsort(descending=True)
    return UnitImages(unit, images[order], values[order], (float(usual.mean()), float(usual.max())))

"""What a report shows, as plain values that JSON can keep: so a killed audit loses no picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from preimage.gallery import grid_png, png_uri
from preimage.pages import Histogram, Picture, Strip, Table

Panel = dict[str, Any]
"""`kind` names the macro of templates/panels.html that draws it; the rest is what that takes."""

_TILE = 40
"""Longest side in pixels of an image on a map."""


def strips(title: str, text: str, rows: Iterable[Strip], columns: int = 12) -> Panel:
    """Rows of images, each under a name."""
    return _panel("strips", title, text, strips=[asdict(row) for row in rows], columns=columns)


def table(content: Table) -> Panel:
    """A table."""
    values = asdict(content)
    return _panel("table", values.pop("title"), values.pop("text"), **values)


def histograms(title: str, names: tuple[str, str, str], plots: Iterable[Histogram]) -> Panel:
    """Pairs of distributions; `names` are those of the two, and the rest of the sentence."""
    return _panel("histograms", title, "", names=names, plots=[asdict(plot) for plot in plots])


def heat(title: str, text: str, names: Sequence[str], values: Tensor) -> Panel:
    """A map of (K, K) numbers >= 0, darkest where they are smallest; NaN is left blank."""
    finite = values[torch.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    span = (high - low) or 1.0
    rows = [
        [
            {"value": value, "near": round(1 - (value - low) / span, 2)}
            if value == value and value != float("inf")
            else None
            for value in row
        ]
        for row in values.tolist()
    ]
    return _panel("heat", title, text, names=list(names), rows=rows, low=low, high=high)


def scatter(
    title: str,
    text: str,
    points: Tensor,
    groups: Sequence[int],
    group_names: Sequence[str],
    labels: Sequence[str],
    images: Tensor,
) -> Panel:
    """A map of points with an image each.

    Args:
        title: of the panel.
        text: what to read from it.
        points: (N, 2), any scale.
        groups: N indices into `group_names`, which are drawn with marks of their own.
        group_names: names for the key.
        labels: N captions.
        images: (N, C, H, W) in [0, 1]; reduced to small tiles in one picture.
    """
    low, high = points.amin(0), points.amax(0)
    places = (points - low) / (high - low).clamp_min(1e-9)
    tiles = _tiles(images)
    columns = max(1, round(len(tiles) ** 0.5))
    return _panel(
        "scatter",
        title,
        text,
        group_names=list(group_names),
        points=[
            {"x": round(20 + 560 * x, 1), "y": round(20 + 360 * y, 1), "group": g, "text": label}
            for (x, y), g, label in zip(places.tolist(), groups, labels, strict=True)
        ],
        sprite=png_uri(grid_png(tiles, columns, gap=0)),
        columns=columns,
        tile=[int(tiles.shape[3]), int(tiles.shape[2])],
        rows=-(-len(tiles) // columns),
    )


def paths(title: str, text: str, rows: Iterable[tuple[str, Sequence[Picture]]]) -> Panel:
    """Rows of images from one class to another, with a caption under each."""
    found = [{"name": name, "pictures": [asdict(p) for p in pictures]} for name, pictures in rows]
    return _panel("paths", title, text, rows=found)


def _tiles(images: Tensor) -> Tensor:
    longest = max(images.shape[2:])
    if longest <= _TILE:
        return images
    factor = _TILE / longest
    size = [max(1, round(side * factor)) for side in images.shape[2:]]
    return torch.nn.functional.interpolate(images.float(), size=size, mode="area")


def _panel(kind: str, title: str, text: str, **values: Any) -> Panel:
    return {"kind": kind, "title": title, "text": text, **values}

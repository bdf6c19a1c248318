"""Pages of figures, tables, distributions and strips of images, each in one file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from preimage.gallery import picture_uris, render

STRIP = 24
"""Images of a strip at most."""

_BINS, _WIDTH, _HEIGHT = 40, 240.0, 80.0


@dataclass(frozen=True)
class Cell:
    """A place in a table."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its heading."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text: str = ""


@dataclass(frozen=True)
class Histogram:
    """Two distributions of scores as outlines of a drawing 240 wide and 80 high."""

    name: str
    known: str
    unknown: str
    limit: float | None
    """Where the threshold is, across."""


@dataclass(frozen=True)
class Picture:
    """An image and what to say of it."""

    uri: str
    text: str


@dataclass(frozen=True)
class Strip:
    """Some images under a name."""

    name: str
    text: str
    pictures: Sequence[Picture] = field(default_factory=list)


def page(
    title: str,
    lead: str,
    panels: Sequence[Mapping[str, Any]],
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """One self-contained page; for panels see :mod:`preimage.panels`."""
    return render(
        "report.html", title=title, lead=lead, panels=panels, facts=facts or {}, notes=notes
    )


def histogram(name: str, known: Tensor, unknown: Tensor, threshold: float | None) -> Histogram:
    """Draw two sets of scores over the range of both; what lies far out counts at the edge."""
    both = torch.cat([known, unknown]).double()
    low, high = torch.quantile(both[torch.isfinite(both)], torch.tensor([0.005, 0.995]).double())
    if threshold is not None:
        low, high = low.clamp_max(threshold), high.clamp_min(threshold)
    span = float(high - low) or 1.0
    here, there = (_outline((part.double() - low) / span) for part in (known, unknown))
    limit = None if threshold is None else round((threshold - float(low)) / span * _WIDTH, 1)
    return Histogram(name, here, there, limit)


def strip(name: str, text: str, images: Tensor, captions: Iterable[str]) -> Strip:
    """Images (N, C, H, W) in [0, 1] with a caption each."""
    pairs = zip(picture_uris(images[:STRIP]), captions, strict=False)
    return Strip(name, text, [Picture(uri, caption) for uri, caption in pairs])


def method_table(title: str, text: str, values: Mapping[str, Mapping[str, float]]) -> Table:
    """Values in [0, 1] by row and column, larger is better; the best of each row is marked."""
    columns = list(dict.fromkeys(name for row in values.values() for name in row))
    rows = []
    for name, row in values.items():
        best = f"{max(row.values()):.3f}"
        texts = [f"{row[column]:.3f}" if column in row else "" for column in columns]
        cells = [Cell(text, text == best) for text in texts]
        rows.append([Cell(name), *cells])
    return Table(title, ["", *columns], rows, text)


def _outline(shares: Tensor) -> str:
    """The histogram of values mostly in [0, 1] as a path."""
    counts = torch.histc(shares.clamp(0, 1), _BINS, 0, 1)
    heights = _HEIGHT * (1 - counts / counts.max().clamp_min(1))
    wide = _WIDTH / _BINS
    steps = "".join(f"V{y:.1f}h{wide:.1f}" for y in heights.tolist())
    return f"M0 {_HEIGHT:.0f}{steps}V{_HEIGHT:.0f}Z"


def as_sentence(warning: str) -> str:
    """A warning as a sentence on a page."""
    return f"{warning[:1].upper()}{warning[1:]}."

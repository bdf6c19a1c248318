"""Independent components of mixed images: the combinations whose edges are least like noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from preimage.runtime import stream
from preimage.types import ImageSpec

SMALLEST = 3
"""Pixels of height and width that an image needs to have edges of every kind."""
KNEE = 0.3
"""Where the density of an edge, in units of its deviation, begins to fall like a power."""
ROUNDS = 400
"""Of two separations, at most."""

_SPIKE = 20
"""Edges that hold half of a spike's squares, about: one pixel has 19 in a channel."""
_CONVERGED, _TOLD = 1e-6, 10
_AGREE = 0.8
_OPPONENTS = ((1.0, 1.0, 1.0), (1.0, -1.0, 0.0), (1.0, 1.0, -2.0))
"""Brightness, red against green, and both against blue."""


class Components(NamedTuple):
    """What a mixture comes apart into."""

    combinations: Tensor
    """(n, n) float64, a combination of the mixture's rows each."""
    certain: Tensor
    """(n,) bool: a separation from another start has come to the same, and it is no spike."""


class Edges:
    """What image content is sparse in: second differences of brightness and of two colours.

    Horizontal and vertical second differences, those of both directions once and those of both
    twice, each kind brought to a mean square of 1 over the mixture. The three channels of an image
    nearly repeat each other, and so do neighbouring first differences; separation needs many
    numbers of every image that do not. Images without three channels have no colours.

    Args:
        mixture: (n, D), what the scale of each kind is taken from.
        spec: shape of the images, at least 3 by 3 pixels.
    """

    def __init__(self, mixture: Tensor, spec: ImageSpec):
        self._spec = spec
        self._sizes = [float(part.square().mean().sqrt()) for part in self._parts(mixture)]

    def __call__(self, images: Tensor) -> Tensor:
        """Of flat images (N, D), all edges (N, G)."""
        pairs = zip(self._parts(images), self._sizes, strict=True)
        return torch.cat([part / max(size, 1e-12) for part, size in pairs], dim=1)

    def _parts(self, images: Tensor) -> Iterator[Tensor]:
        image = images.reshape(-1, *self._spec.shape)
        if self._spec.channels == len(_OPPONENTS):
            image = torch.einsum("kc,nchw->nkhw", image.new_tensor(_OPPONENTS), image)
        across, down = image.diff(n=2, dim=3), image.diff(n=2, dim=2)
        corner = image.diff(dim=3).diff(dim=2)
        for kind in (across, down, corner, across.diff(n=2, dim=2)):
            for channel in kind.unbind(1):
                yield channel.flatten(1)


def separate(
    mixture: Tensor,
    edges: Edges,
    seed: int,
    device: torch.device,
    on_round: Callable[[int], None] | None = None,
) -> Components:
    """The combinations whose edges are least like normal noise.

    FastICA (Hyvarinen 1999), all components at once, in float32. The nonlinearity is that of a
    density with a sharp peak, as edges have. With many images for so many pixels there are more
    local optima than images. Where images were mixed, what two separations from different starts
    agree on mostly is one, and what only one of them finds is not (as Himberg and Hyvarinen 2003,
    "Icasso", judge components). But with nearly as many images as pixels, any mixture has
    combinations in which one pixel stands out, and these are found from every start.

    Args:
        mixture: (n, D) float64, n at least 2 combinations of as many images.
        edges: of these images.
        seed: of the starts.
        device: where to look for them.
        on_round: told how many of the :data:`ROUNDS` are over, now and then.
    """
    steps = edges(mixture)
    whitening = whitening_of(steps)
    white = (whitening @ steps).float().to(device)
    random = stream(seed, "unmixing")
    half = ROUNDS // 2

    def tell(done: int) -> None:
        if on_round and done % _TOLD == 0:
            on_round(done)

    found = _components(white, random, tell)
    other = _components(white, random, lambda done: tell(half + done))
    alike = (found @ other.T).abs().amax(1)
    certain = (alike > _AGREE) & (_holding_half(found @ white) > _SPIKE)
    return Components(found.double().cpu() @ whitening, certain.cpu())


def _holding_half(edges: Tensor) -> Tensor:
    """How many of the edges (n, G) of each image hold half of their squares, at least; (n,)."""
    sums = edges.square().sort(dim=1, descending=True).values.cumsum(1)
    return (sums < sums[:, -1:] / 2).sum(1) + 1


def whitening_of(rows: Tensor) -> Tensor:
    """What (n, n) makes rows (n, G) uncorrelated and of mean square 1."""
    # directions of next to nothing would become all noise
    return _inverse_root(rows @ rows.T / rows.shape[1], floor=1e-10)


def _components(white: Tensor, random: torch.Generator, tell: Callable[[int], None]) -> Tensor:
    """Of white data (n, G), from a random rotation: (n, n), orthonormal rows."""
    count = len(white)
    rows = torch.linalg.qr(torch.randn(count, count, generator=random))[0].to(white)
    for done in range(1, ROUNDS // 2 + 1):
        values = rows @ white
        size = values.abs() + KNEE
        slopes = (KNEE / size.square()).mean(1, keepdim=True)
        moved = _orthonormal((values / size) @ white.T / white.shape[1] - slopes * rows)
        change = float((1 - (moved * rows).sum(1).abs()).max())
        rows = moved
        tell(done)
        if change < _CONVERGED:
            break
    return rows


def _orthonormal(rows: Tensor) -> Tensor:
    """The nearest orthonormal rows to `rows` (n, n)."""
    # two rows that have come to the same leave a direction of nothing
    return _inverse_root(rows @ rows.T, floor=1e-9) @ rows


def _inverse_root(products: Tensor, floor: float) -> Tensor:
    """Of symmetric (n, n), eigenvalues below a share `floor` of the largest taken for that."""
    values, vectors = torch.linalg.eigh(products.double())
    root = values.clamp_min(floor * float(values.max())).rsqrt()
    return ((vectors * root) @ vectors.T).to(products)

"""Training images from a dense first layer: its weights are a mixture of them, which comes apart.

Every step of gradient descent adds a multiple of the images of its batch to the weights of each
unit of the first layer. What training has written there is therefore a matrix of coefficients times
the images, and has as many directions as there were images. Where the first weights were small
enough for these to stand out, an image is an unknown combination of known directions. Mixtures of
natural images have more nearly normal edges than the images themselves, so independent component
analysis (:mod:`preimage.leak.components`) takes them apart; that pixels lie in [0, 1] and most
edges are nearly 0 does the rest. Kariyappa et al. 2023, "Cocktail party attack" (arXiv 2209.05578),
separate the images of a batch from its gradient in this way; here it is the trained weights
themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from preimage.leak.components import (
    KNEE,
    ROUNDS,
    SMALLEST,
    Edges,
    separate,
    whitening_of,
)
from preimage.leak.first_layer import FirstLayer
from preimage.types import ImageSpec

_STEPS, _FEWEST_STEPS = 2000, 400
"""Of sharpening 100 images and fewer, and of many: a step takes as long as the square of these."""
_NEARLY_ALL, _POLISHING_STEPS = 0.9, 200
"""Where so many are certain, they mostly are images already, and little is left to do."""
_AS_IT_WAS = 0.8
"""Cosine of an image's pixels, less their mean, with those before: below it was no image yet."""
_FEW = 100
_LAST_KNEE = 0.03
_RANGE = 500.0
_APART = 0.2
_LAST_APART = 0.033
_RATE = 0.01
"""Of each coordinate of 100 images and fewer; all together move by its root of n."""
_ABOVE_NOISE = 1.02
_MOST_DIRECTIONS = 0.9
_STEP, _FIRST_STEP = 2.0, 10
"""Ratio of neighbours that is a step, and the fewest directions before one; the largest singular
values lie far apart without it."""
_MOST_OUTSIDE = 0.01
_LEAST_CONSTANT = 1e-6


class Unmixed(NamedTuple):
    """What came out of a layer's weights."""

    images: Tensor
    """(n, C, H, W) float32 in [0, 1], one a direction that stands out: those that are certain
    first, then those that are possible images, the most likely of each kind first."""
    possible: int
    """How many are certain or have nearly all pixels in [0, 1] of themselves; the others are cut
    off there."""
    certain: int = 0
    """How many two separations from different starts agreed on."""


def unmix(
    layer: FirstLayer,
    spec: ImageSpec,
    *,
    seed: int = 0,
    steps: int | None = None,
    device: torch.device | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Unmixed:
    """The images that the layer's weights are mixed from.

    Args:
        layer: of H units, on images of `spec`.
        spec: shape of the images.
        seed: of the first guesses.
        steps: of sharpening; None takes 2000 for up to 100 images, down to 400 for more, and 200
            where nine tenths are certain and stay as they are.
        device: where to compute.
        on_step: told the step and the number of steps, those of separation included, now and then;
            the number falls where separation seems to leave little to do.

    Returns:
        No images where no direction stands out of the noise of the first weights, or so many do
        that there is no noise left to tell them from, where the bias has learnt nothing, or where
        images of less than 3 by 3 pixels have no edges to tell.
    """
    found = directions(layer.weights)
    if found is None or len(found) < 2 or min(spec.height, spec.width) < SMALLEST:
        return Unmixed(torch.empty(0, *spec.shape), 0)
    basis = _in_pixels(found, layer)
    # each image has a constant of 1, which tells its scale; a bias that never learnt has none
    if float(basis[:, -1].norm()) < _LEAST_CONSTANT * float(basis.norm()):
        return Unmixed(torch.empty(0, *spec.shape), 0)
    device = device or torch.device("cpu")

    def tell(done: int, sharpening: int) -> None:
        if on_step:
            on_step(done, ROUNDS + sharpening)

    edges = Edges(basis[:, :-1], spec)
    planned = _sharpening_steps(len(basis)) if steps is None else steps
    guess = separate(basis[:, :-1], edges, seed, device, lambda done: tell(done, planned))
    mixture = _Mixture(basis.float(), spec, edges, device)
    start = mixture.place(guess.combinations)

    def sharpened(count: int) -> Tensor:
        return mixture.sharpen(start, count, lambda done: tell(ROUNDS + done, count))

    if steps is None and int(guess.certain.sum()) >= _NEARLY_ALL * len(basis):
        place = sharpened(_POLISHING_STEPS)
        # weight decay leaves certain components whose scale, and so whose contrast, is not known
        if mixture.unmoved(start, place) >= _NEARLY_ALL:
            return mixture.best(place, guess.certain)
    return mixture.best(sharpened(planned), guess.certain)


def _sharpening_steps(count: int) -> int:
    return max(_FEWEST_STEPS, int(_STEPS * min(1.0, _FEW / count)))


def directions(weights: Tensor) -> Tensor | None:
    """What training wrote into a layer that began as noise.

    The right singular vectors whose singular values are above what independent noise of the size
    of all the others can reach: sigma (sqrt(H') + sqrt(D')) for a matrix (H', D') of deviation
    sigma (Marchenko and Pastur 1967). Where the rest is no such noise, because weight decay has
    worn the first weights away or rounding hides them, those before the widest step.

    Args:
        weights: (H, D).

    Returns:
        (n, D), orthonormal, n = 0 where nothing stands out; None where nearly everything does, more
        than nine tenths of what the shape allows, with no clear step among these.
    """
    values, vectors = torch.linalg.svd(weights, full_matrices=False)[1:]
    most = int(_MOST_DIRECTIONS * len(values))
    count = _above_noise(values, weights.shape, most)
    if count is None:
        count = _before_step(values, most)
        return vectors[:count] if count else None
    return vectors[:count]


def _above_noise(values: Tensor, size: torch.Size, most: int) -> int | None:
    """How many singular values are too large for noise; None for `most` and more."""
    rest = values.square().flip(0).cumsum(0).flip(0)  # of this value and all below it
    for count in range(most):
        height, width = size[0] - count, size[1] - count
        sigma = math.sqrt(float(rest[count]) / (height * width))
        edge = sigma * (math.sqrt(height) + math.sqrt(width))
        if float(values[count]) <= _ABOVE_NOISE * edge:
            return count
    return None


def _before_step(values: Tensor, most: int) -> int:
    """How many singular values come before the widest step down; 0 where none is wide."""
    above, below = values[_FIRST_STEP - 1 : most], values[_FIRST_STEP : most + 1]
    steps = above / below.clamp_min(torch.finfo(torch.float64).tiny)
    # what float32 cannot hold beside the largest is rounding, whose steps say nothing
    steps = steps * (above > torch.finfo(torch.float32).eps * values[0])
    if not len(steps) or float(steps.max()) < _STEP:
        return 0
    return int(steps.argmax()) + _FIRST_STEP


class _Losses(NamedTuple):
    """Of each image (n,)."""

    outside: Tensor
    """Mean square of how far the pixels are outside [0, 1]."""
    edges: Tensor
    """How far its edges are from sparse."""

    @property
    def total(self) -> Tensor:
        """Both, weighted."""
        return _RANGE * self.outside + self.edges


class _Mixture:
    """Images as combinations of the directions, each with a constant of 1."""

    def __init__(self, basis: Tensor, spec: ImageSpec, edges: Edges, device: torch.device):
        self.spec = spec
        self.vectors = torch.linalg.qr(basis.T)[0].T.to(device)
        self.basis = basis.to(device)
        constant = self.vectors[:, -1]
        self.origin = constant / constant.square().sum()  # the shortest with a constant of 1
        self.free = _orthogonal_to(constant)
        steps = edges(self.vectors[:, :-1])
        whitening = whitening_of(steps)
        self.white_steps = whitening @ steps
        # against a volume of exactly 0, whose logarithm has no gradient
        self.ridge = 1e-6 * torch.eye(len(basis)).to(self.basis)
        self.unwhitened = torch.linalg.inv(whitening.double()).to(steps)

    def sharpen(self, start: Tensor, steps: int, tell: Callable[[int], None]) -> Tensor:
        """Move all images to where they are possible, sparse in edges, and not alike."""
        place = start.clone().requires_grad_()
        rate = _RATE * min(1.0, math.sqrt(_FEW / len(place)))
        rate *= float(place.detach().norm(dim=1).median())
        optimizer = torch.optim.Adam([place], lr=rate, betas=(0.9, 0.99))
        for step in range(steps):
            done = step / steps
            for group in optimizer.param_groups:
                group["lr"] = rate * (0.505 + 0.495 * math.cos(math.pi * done))
            losses, alike = self._losses(place, KNEE * (_LAST_KNEE / KNEE) ** done)
            apart = _APART + (_LAST_APART - _APART) * done
            loss = losses.total.mean() + apart * alike
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 50 == 49 or step == steps - 1:
                tell(step + 1)
        return place.detach()

    def place(self, combinations: Tensor) -> Tensor:
        """Where combinations of the basis are among those with a constant of 1, (n, n - 1)."""
        rows = combinations.to(self.basis) @ self.basis @ self.vectors.T
        constant = rows @ self.vectors[:, -1:]
        tiny = 1e-3 * rows.norm(dim=1, keepdim=True)
        sure = torch.where(constant.abs() < tiny, tiny, constant)
        return (rows / sure - self.origin) @ self.free

    def unmoved(self, start: Tensor, end: Tensor) -> float:
        """The share of images that are at the end about what they were at the start."""
        before, after = (self._pixels(self._rows(place)) for place in (start, end))
        before, after = (pixels - pixels.mean(1, keepdim=True) for pixels in (before, after))
        return float((F.cosine_similarity(before, after) > _AS_IT_WAS).float().mean())

    def _rows(self, place: Tensor) -> Tensor:
        return self.origin + place @ self.free.T

    def _pixels(self, rows: Tensor) -> Tensor:
        return (rows @ self.vectors)[:, :-1]

    def _losses(self, place: Tensor, knee: float) -> tuple[_Losses, Tensor]:
        rows = self._rows(place)
        pixels = self._pixels(rows)
        outside = (pixels - pixels.clamp(0, 1)).square().mean(1)
        unit = F.normalize(rows @ self.unwhitened, dim=1)
        edges = torch.log1p((unit @ self.white_steps).abs() / knee).mean(1)
        # the volume that the images span: 0 as soon as two of them are one
        volume = torch.logdet(unit @ unit.T + self.ridge)
        return _Losses(outside, edges), -volume / len(unit)

    def best(self, place: Tensor, certain: Tensor) -> Unmixed:
        """Images by whether they are certain, then possible, then by how sparse their edges are."""
        losses, _ = self._losses(place, _LAST_KNEE)
        certain = certain.to(place.device)
        possible = certain | (losses.outside < _MOST_OUTSIDE)
        order = losses.total.argsort()
        order = order[(certain.int() + possible.int())[order].argsort(descending=True, stable=True)]
        pixels = self._pixels(self._rows(place[order]))
        images = pixels.clamp(0, 1).reshape(-1, *self.spec.shape).cpu()
        return Unmixed(images, int(possible.sum()), int(certain.sum()))


def _in_pixels(found: Tensor, layer: FirstLayer) -> Tensor:
    """Directions of inputs and constant as those of pixels and constant, (n, D + 1)."""
    inputs, constant = found[:, :-1], found[:, -1:]
    return torch.cat([(inputs - constant * layer.shift) / layer.scale, constant], dim=1)


def _orthogonal_to(vector: Tensor) -> Tensor:
    """(n, n - 1) orthonormal columns, all orthogonal to `vector` (n,)."""
    return torch.linalg.svd(vector[None], full_matrices=True)[2][1:].T.contiguous()

"""Training images from a dense first layer: its weights are a mixture of them, which comes apart.

Every step of gradient descent adds a multiple of the images of its batch to the weights of each
unit of the first layer. What training has written there is therefore a matrix of coefficients times
the images, and has as many directions as there were images. Where the first weights were small
enough for these to stand out, or weight decay has worn them away, an image is an unknown
combination of known directions. Mixtures of natural images have more nearly normal edges than the
images themselves, so independent component analysis (:mod:`preimage.leak.components`) takes them
apart; that pixels lie in [0, 1] and most edges are nearly 0 does the rest
(:mod:`preimage.leak.mixture`; :mod:`preimage.leak.contrast` for how bright they are). Kariyappa et
al. 2023, "Cocktail party attack" (arXiv 2209.05578), separate the images of a batch from its
gradient in this way; here it is the trained weights themselves.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from preimage.leak.components import ROUNDS, SMALLEST, separate
from preimage.leak.contrast import KnownContrast, UnknownContrast
from preimage.leak.directions import directions
from preimage.leak.first_layer import FirstLayer
from preimage.leak.mixture import FEW, Mixture, Unmixed
from preimage.types import ImageSpec

_STEPS, _FEWEST_STEPS = 2000, 400
"""Of sharpening 100 images and fewer, and of many: a step takes as long as the square of these."""
_NEARLY_ALL, _POLISHING_STEPS = 0.9, 200
"""Where so many are certain, they mostly are images already, and little is left to do."""
_ALONE = 1e-3
"""Square of what of a direction may lie outside of the others'."""


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
    device = device or torch.device("cpu")
    mixture = _mixture(layer, spec, device)
    if mixture is None:
        return Unmixed(torch.empty(0, *spec.shape), 0)

    def tell(done: int, sharpening: int) -> None:
        if on_step:
            on_step(done, ROUNDS + sharpening)

    planned = _sharpening_steps(len(mixture.basis)) if steps is None else steps
    guess = separate(mixture.basis, mixture.edges, seed, device, lambda done: tell(done, planned))
    start = mixture.start(guess.combinations)

    def sharpened(count: int) -> Tensor:
        return mixture.sharpen(start, count, lambda done: tell(ROUNDS + done, count))

    if steps is None and int(guess.certain.sum()) >= _NEARLY_ALL * len(mixture.basis):
        place = sharpened(_POLISHING_STEPS)
        if mixture.unmoved(start, place) >= _NEARLY_ALL:
            return mixture.best(place, guess.certain)
    return mixture.best(sharpened(planned), guess.certain)


def _mixture(layer: FirstLayer, spec: ImageSpec, device: torch.device) -> Mixture | None:
    """What training wrote into the layer, as pixels; None for nothing to take apart."""
    found = directions(layer.weights)
    if found is None or len(found) < 2 or min(spec.height, spec.width) < SMALLEST:
        return None
    without_bias = _without_bias(layer, found) if layer.gradients else None
    if without_bias is not None:
        return UnknownContrast(layer, without_bias, spec, device)
    mixture = KnownContrast(layer, found, spec, device)
    return mixture if mixture.tells_scale else None


def _without_bias(layer: FirstLayer, found: Tensor) -> Tensor | None:
    """Directions of inputs where the constant is one of its own, and so belongs to no image."""
    if 1 - float(found[:, -1].square().sum()) > _ALONE:
        return None
    others = directions(layer.weights[:, :-1])
    # the constant itself is one more, and noise may hide the last of either
    alone = others is not None and abs(len(others) + 1 - len(found)) <= 1 < len(others)
    return others if alone else None


def _sharpening_steps(count: int) -> int:
    return max(_FEWEST_STEPS, int(_STEPS * min(1.0, FEW / count)))

"""The layer that meets the image first, where it is a dense one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from preimage.classifier import Classifier, running_linears
from preimage.drawing import chunks
from preimage.runtime import stream


class FirstLayer(NamedTuple):
    """Weights that act on every pixel of the image, and how the image comes to them."""

    weights: Tensor
    """(H, D + 1) float64, of H units for D = C * H * W inputs and, at last, for the constant 1."""
    scale: Tensor
    """(D,) float64: an input is its pixel times this ..."""
    shift: Tensor
    """(D,) float64: ... and this added."""
    gradients: Callable[[Tensor], Tensor] | None = None
    """Of images (N, C, H, W) in [0, 1] the gradient (N, H) float64, on the CPU, of the logarithm of
    the largest probability with respect to the units' sums; None where they are not known."""


def first_layer(classifier: Classifier) -> FirstLayer | None:
    """The first linear layer, if its inputs are the flattened image, each pixel on its own scale.

    None where a convolution or anything else that mixes pixels comes before it, where it has no
    bias, and where the network hides its layers, as an exported program does.

    Args:
        classifier: must be frozen, and in float32 (:func:`preimage.classifier.float32_weights`):
            half precision rounds away that its inputs are the pixels. It is asked for three images.
    """
    size = classifier.spec.shape
    probes = torch.stack(
        [torch.zeros(size), torch.ones(size), torch.rand(size, generator=stream("first layer"))]
    )
    with torch.no_grad():
        order = running_linears(classifier, probes.to(classifier.mean.device))
    if not order:
        return None
    _, layer, inputs = order[0]
    found = _on_pixels(layer, inputs, probes)
    return found and found._replace(gradients=lambda images: _gradients(classifier, layer, images))


def _on_pixels(layer: nn.Linear, inputs: Tensor, probes: Tensor) -> FirstLayer | None:
    pixels = probes.flatten(1).double()
    if inputs.shape != pixels.shape or layer.bias is None:
        return None
    black, white, mixed = inputs.cpu().double()
    scale, shift = white - black, black
    straight = torch.allclose(mixed, scale * pixels[2] + shift, atol=1e-4)
    if not straight or not bool((scale.abs() > 1e-6).all()):
        return None
    weights = torch.cat([layer.weight.detach(), layer.bias.detach()[:, None]], dim=1)
    return FirstLayer(weights.cpu().double(), scale, shift)


def _gradients(classifier: Classifier, layer: nn.Linear, images: Tensor) -> Tensor:
    sums: list[Tensor] = []

    def keep(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        sums.append(output.detach().requires_grad_())
        return sums[-1]

    handle = layer.register_forward_hook(keep)
    try:
        found = [
            _of_largest(classifier, images[part].to(classifier.mean), sums)
            for part in chunks(len(images), classifier.spec)
        ]
    finally:
        handle.remove()
    return torch.cat(found)


def _of_largest(classifier: Classifier, images: Tensor, sums: list[Tensor]) -> Tensor:
    sums.clear()
    with torch.enable_grad():
        logits = classifier(images).logits
        likelihoods = logits.log_softmax(1).amax(1)
    (gradient,) = torch.autograd.grad(likelihoods.sum(), sums[0])
    return gradient.cpu().double()

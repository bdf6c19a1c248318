"""What holds the images while they are looked for: a class each, with ``@carrier("name")``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from preimage.conditioning import make_scheme
from preimage.config import GeneratorConfig
from preimage.errors import PreimageError
from preimage.generator import Generator, plane_size
from preimage.runtime import random_state, seed_of, stream
from preimage.types import Condition, ImageSpec

_CARRIERS: dict[str, Callable[[ImageSpec, Tensor, int, int], nn.Module]] = {}


def carrier(name: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Register a class ``(spec, labels, classes, seed)`` whose call gives images."""

    def add(kind: type[nn.Module]) -> type[nn.Module]:
        _CARRIERS[name] = kind
        return kind

    return add


def carrier_names() -> tuple[str, ...]:
    """Names of all carriers."""
    return tuple(_CARRIERS)


def make_carrier(name: str, spec: ImageSpec, labels: Tensor, classes: int, seed: int) -> nn.Module:
    """A module without input that gives an image (N, C, H, W) for each of `labels` (N,).

    Raises:
        PreimageError: for an unknown name.
    """
    if name not in _CARRIERS:
        raise PreimageError(
            f"expected a carrier out of {', '.join(_CARRIERS)}, found '{name}'; choose one of those"
        )
    return _CARRIERS[name](spec, labels, classes, seed)


@carrier("direct")
class Direct(nn.Module):
    """The pixels themselves, free to leave [0, 1] while they are looked for."""

    def __init__(self, spec: ImageSpec, labels: Tensor, classes: int, seed: int):
        super().__init__()
        noise = torch.randn(len(labels), *spec.shape, generator=stream(seed, "direct"))
        self.pixels = nn.Parameter(0.5 + 0.1 * noise)

    def forward(self) -> Tensor:
        """Images (N, C, H, W)."""
        return self.pixels


@carrier("generator")
class Generated(nn.Module):
    """A generator that draws every image from a latent of its own, as an inversion does."""

    def __init__(self, spec: ImageSpec, labels: Tensor, classes: int, seed: int):
        super().__init__()
        random = stream(seed, "generated")
        scheme = make_scheme("vector", classes, plane_size(spec), 4.0, 2.0)
        with random_state(seed_of(seed, "generator")):
            config = GeneratorConfig(dropout=0.0, stretch=0.1)
            self.generator = Generator(spec, scheme, config)
        self._noise = self.generator.noise(len(labels), random)
        self._condition = scheme(labels.cpu(), random)

    def forward(self) -> Tensor:
        """Images (N, C, H, W) in [0, 1]."""
        device = next(self.generator.parameters()).device
        noise = type(self._noise)(*(part.to(device) for part in self._noise))
        parts = (None if part is None else part.to(device) for part in self._condition)
        images: Tensor = self.generator(noise, Condition(*parts))  # type: ignore[arg-type]
        return images

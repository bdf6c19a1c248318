"""A conditioned generator: latent and condition in, image in [0, 1] out.

All its randomness is in its inputs. Dropout takes its random numbers as an argument, so that it
stays on while sampling, a sample is repeatable whatever the batch it is drawn in, and several
processes draw what one would.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from preimage.conditioning import Scheme
from preimage.config import GeneratorConfig
from preimage.distributed import GlobalBatchNorm2d
from preimage.imported import build_generator
from preimage.types import Condition, ImageSpec


class Noise(NamedTuple):
    """Everything random about a batch, apart from the condition."""

    latent: Tensor
    """(B, Z), standard normal."""
    keep: Tensor
    """(B, U), uniform in [0, 1): one number for every channel that dropout may switch off."""
    member: Tensor
    """(B,), in [0, 1): which of an inversion's generators draws the image."""

    def rows(self, index: slice | Tensor) -> Noise:
        """The noise of these rows of the batch."""
        return Noise(*(part[index] for part in self))


def stage_sizes(spec: ImageSpec) -> list[tuple[int, int]]:
    """Feature map sizes from the first to the image's own, each about twice the one before.

    The first is the largest with a side of at most 8 pixels; there are at least two.
    """
    sizes = [(spec.height, spec.width)]
    while min(sizes[0]) > 8 or len(sizes) < 2:
        height, width = sizes[0]
        sizes.insert(0, (-(-height // 2), -(-width // 2)))
    return sizes


def plane_size(spec: ImageSpec) -> tuple[int, int]:
    """Size of the feature map that a condition's planes join: half-way up."""
    sizes = stage_sizes(spec)
    return sizes[len(sizes) // 2 if len(sizes) > 2 else 1]


class ImageGenerator(nn.Module):
    """What an inversion asks of a generator. One of your own is a class that derives from this.

    It is built as ``Class(spec, scheme, config)``, with the image's shape, the conditioning scheme
    (whose ``vector_size`` and ``plane_count`` say what a condition has) and the settings
    :class:`~preimage.config.GeneratorConfig`. ``forward(noise, condition)`` gives float32 images
    (B, C, H, W) in [0, 1]. Nothing random happens in it but by the numbers in `noise`, and no image
    depends on others of the batch in evaluation mode: samples do not depend on the batch then.
    """

    def noise(self, count: int, generator: torch.Generator) -> Noise:
        """Draw what `count` images need, on the CPU; `member` stays to be said."""
        raise NotImplementedError

    def restart(self, generator: torch.Generator) -> list[Tensor]:
        """Forget what images it draws, for the next of an inversion's members.

        Args:
            generator: of the random numbers, on the CPU.

        Returns:
            The parameters that were drawn anew: what the optimiser knows of them goes.
        """
        raise NotImplementedError


def make_generator(spec: ImageSpec, scheme: Scheme, config: GeneratorConfig) -> ImageGenerator:
    """Build the usual generator, or the one that the settings name.

    Raises:
        PreimageError: for a class that cannot be imported or is no generator.
    """
    if config.generator is None:
        return Generator(spec, scheme, config)
    return cast(ImageGenerator, build_generator(config.generator, spec, scheme, config))


class Generator(ImageGenerator):
    """Up-sampling generator that sizes itself from the image and the conditioning scheme.

    A linear layer to the smallest map, then per stage: nearest-neighbour resizing, 3x3
    convolution (which leaves no checkerboard, as transposed convolution does), batch norm, leaky
    ReLU and channel dropout; a last convolution and a sigmoid.

    Args:
        spec: shape of the images to draw.
        scheme: says how much vector and how many planes to expect.
        config: latent size, width, dropout rate.
    """

    def __init__(self, spec: ImageSpec, scheme: Scheme, config: GeneratorConfig):
        super().__init__()
        sizes = stage_sizes(spec)
        channels = [config.width * min(2**i, 8) for i in reversed(range(len(sizes)))]
        self.start = (channels[0], *sizes[0])
        self.joint = sizes.index(plane_size(spec)) - 1
        height, width = sizes[0]
        self.linear = nn.Linear(
            config.latent + scheme.vector_size, channels[0] * height * width, bias=False
        )
        self.first = _Finish(channels[0], config.dropout)
        self.stages = nn.ModuleList()
        for i, size in enumerate(sizes[1:]):
            planes = scheme.plane_count if i == self.joint else 0
            self.stages.append(_Stage(channels[i], planes, channels[i + 1], size, config.dropout))
        self.last = nn.Conv2d(channels[-1], spec.channels, 3, padding=1)
        self.stretch = config.stretch
        self.latent_size = config.latent
        self.keep_sizes = channels if config.dropout > 0 else [0] * len(channels)

    def noise(self, count: int, generator: torch.Generator) -> Noise:
        """Draw what `count` images need, on the CPU; whose turn it is stays to be said."""
        latent = torch.randn(count, self.latent_size, generator=generator)
        keep = torch.rand(count, sum(self.keep_sizes), generator=generator)
        return Noise(latent, keep, torch.zeros(count))

    @torch.no_grad()
    def restart(self, generator: torch.Generator) -> list[Tensor]:
        """Draw the first layer anew, from numbers on the CPU: other images, by the same hand."""
        weight = self.linear.weight
        fresh = torch.rand(weight.shape, generator=generator) * 2 - 1
        weight.copy_(fresh / math.sqrt(weight.shape[1]))
        return [weight]

    def forward(self, noise: Noise, condition: Condition) -> Tensor:
        """Images (B, C, H, W) in [0, 1], float32."""
        inputs = [noise.latent]
        if condition.vector is not None:
            # centred and scaled to unit variance or so, whatever the class count
            inputs.append((condition.vector - condition.vector.mean(1, keepdim=True)) * 4)
        keep = noise.keep.split(self.keep_sizes, dim=1)
        x = self.linear(torch.cat(inputs, dim=1)).unflatten(1, self.start)
        x = self.first(x.contiguous(memory_format=torch.channels_last), keep[0])
        for i, stage in enumerate(self.stages):
            x = stage(x, condition.planes if i == self.joint else None, keep[i + 1])
        return _bounded(self.last(x).float(), self.stretch)


def _bounded(values: Tensor, stretch: float) -> Tensor:
    """A sigmoid that reaches beyond [0, 1] by `stretch`, cut there.

    The stretched sigmoid of Louizos et al. 2018 ("Learning Sparse Neural Networks", section 2.2).
    The cut has the gradient of the identity, so that no pixel is stuck.
    """
    reached = values.sigmoid() * (1 + 2 * stretch) - stretch
    return reached + (reached.clamp(0, 1) - reached).detach()


class _Stage(nn.Module):
    def __init__(self, before: int, planes: int, after: int, size: tuple[int, int], dropout: float):
        super().__init__()
        self.size = size
        self.conv = nn.Conv2d(before + planes, after, 3, padding=1, bias=False)
        self.finish = _Finish(after, dropout)

    def forward(self, x: Tensor, planes: Tensor | None, keep: Tensor) -> Tensor:
        x = F.interpolate(x, size=self.size, mode="nearest")
        if planes is not None:
            x = torch.cat([x, planes.to(x.dtype)], dim=1)
        return self.finish(self.conv(x), keep)


class _Finish(nn.Module):
    """Batch norm, leaky ReLU and channel dropout."""

    def __init__(self, channels: int, dropout: float):
        super().__init__()
        self.norm = GlobalBatchNorm2d(channels)
        self.dropout = dropout

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm(x), 0.1)
        if self.dropout == 0:
            return x
        kept = (keep >= self.dropout).to(x.dtype) / (1 - self.dropout)
        return x * kept[:, :, None, None]

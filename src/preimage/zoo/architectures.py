"""Reference classifiers: each sizes itself from the image and the class count.

Every module takes images in [0, 1] of shape (B, C, H, W), or normalised ones, and returns logits
(B, K); its last linear layer's input is the penultimate feature vector. A new architecture is one
class with the ``@architecture`` decorator.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from preimage.errors import PreimageError
from preimage.types import ImageSpec

Builder = Callable[..., nn.Module]
_ARCHITECTURES: dict[str, Builder] = {}


def architecture(name: str) -> Callable[[Builder], Builder]:
    """Register a class or function ``(spec, classes, width) -> nn.Module`` under `name`."""

    def register(builder: Builder) -> Builder:
        _ARCHITECTURES[name] = builder
        return builder

    return register


def names() -> tuple[str, ...]:
    """Names that :func:`build` knows."""
    return tuple(sorted(_ARCHITECTURES))


def build(name: str, spec: ImageSpec, classes: int, width: int | None = None) -> nn.Module:
    """Build a freshly initialised reference classifier.

    Args:
        name: one of :func:`names`.
        spec: image shape; both sides at least 8 pixels.
        classes: number of classes K, at least 2.
        width: channels of the first stage (hidden units for the MLP, token size for the ViT);
            None takes the architecture's own.

    Raises:
        PreimageError: for an unknown name or a problem too small to build for.
    """
    if name not in _ARCHITECTURES:
        raise PreimageError(
            f"expected an architecture out of {', '.join(names())}, found '{name}'; "
            "choose one of those with --arch"
        )
    check_problem(spec, classes)
    builder = _ARCHITECTURES[name]
    return builder(spec, classes) if width is None else builder(spec, classes, width)


def family(name: str) -> str:
    """What a network is built of: "cnn" for cnn and cnn-deep, and so on."""
    return name.partition("-")[0]


def check_problem(spec: ImageSpec, classes: int) -> None:
    """Refuse image sizes and class counts that nothing here can work on.

    Raises:
        PreimageError: for no channel, a side below 8 pixels or fewer than two classes.
    """
    if spec.channels < 1:
        raise PreimageError(
            f"expected images of at least 1 channel, found {spec.channels}; "
            "give channels, height and width in this order"
        )
    if min(spec.height, spec.width) < 8:
        raise PreimageError(
            f"expected images of at least 8 x 8 pixels, found {spec.height} x {spec.width}; "
            "resize the data before training or inverting"
        )
    if classes < 2:
        raise PreimageError(
            f"expected a classifier of at least 2 classes, found {classes}; "
            "a single class has no preimage to tell from the rest"
        )


def _stages(spec: ImageSpec) -> int:
    """Halvings until the shorter side is below 7 pixels, at least two and at most five."""
    side, stages = min(spec.height, spec.width), 0
    while side >= 7 and stages < 5:
        side, stages = side // 2, stages + 1
    return max(stages, 2)


def _stem(before: int, channels: int, activation: nn.Module) -> list[nn.Module]:
    """One convolution at full resolution, pooled at once: what follows costs a quarter."""
    return [
        nn.Conv2d(before, channels, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(channels),
        activation,
    ]


def _deep_stem(before: int, channels: int, activation: nn.Module) -> list[nn.Module]:
    """Two convolutions at full resolution, the first a narrow one."""
    narrow = max(1, channels // 2)
    first = [
        nn.Conv2d(before, narrow, 3, padding=1, bias=False),
        nn.BatchNorm2d(narrow),
        activation,
    ]
    return [*first, *_stem(narrow, channels, activation)]


def _double(before: int, channels: int, dropout: float) -> list[nn.Module]:
    """Two convolutions, pooling after the second, channel dropout at the end."""
    return [
        nn.Conv2d(before, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.LeakyReLU(0.1),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(channels),
        nn.LeakyReLU(0.1),
        nn.Dropout2d(dropout),
    ]


class _Pooled(nn.Module):
    """A convolutional body, its mean over the map, and a linear layer."""

    def __init__(self, layers: list[nn.Module], features: int, classes: int):
        super().__init__()
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(features, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.head(self.body(images).mean(dim=(2, 3)))


@architecture("cnn")
class CNN(_Pooled):
    """Plain convolutional network in the style of the paper.

    Convolution, batch norm, leaky ReLU, max pooling and channel dropout, as in "Network
    Inversion and Its Applications" (arXiv 2411.17777); depth and widths are ours.
    """

    def __init__(self, spec: ImageSpec, classes: int, width: int = 32, dropout: float = 0.1):
        layers = _stem(spec.channels, width, nn.LeakyReLU(0.1))
        before = width
        for stage in range(1, _stages(spec)):
            channels = width * 2 ** min(stage, 3)
            layers += _double(before, channels, dropout)
            before = channels
        super().__init__(layers, before, classes)


@architecture("cnn-deep")
class DeepCNN(_Pooled):
    """The CNN with a two-layer stem and one more stage, for natural images."""

    def __init__(self, spec: ImageSpec, classes: int, width: int = 48, dropout: float = 0.1):
        layers = _deep_stem(spec.channels, width, nn.LeakyReLU(0.1))
        before = width
        for stage in range(1, _stages(spec) + 1):
            channels = width * 2 ** min(stage, 2)
            layers += _double(before, channels, dropout)
            before = channels
        super().__init__(layers, before, classes)


class _Residual(nn.Module):
    """Basic block of He et al. 2016, its shortcut projected where the shape changes."""

    def __init__(self, before: int, channels: int, stride: int):
        super().__init__()
        conv = partial(nn.Conv2d, kernel_size=3, padding=1, bias=False)
        self.body = nn.Sequential(
            conv(before, channels, stride=stride),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            conv(channels, channels),
            nn.BatchNorm2d(channels),
        )
        self.activation = nn.ReLU()  # a module, which `preimage.leak.terms.smooth_gates` finds
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.activation(self.body(x) + self.shortcut(x))
        return activated


@architecture("resnet")
class ResNet(_Pooled):
    """Small residual network (He et al. 2016): one basic block a stage."""

    def __init__(self, spec: ImageSpec, classes: int, width: int = 32):
        layers = _stem(spec.channels, width, nn.ReLU())
        before = width
        for stage in range(_stages(spec)):
            channels = width * 2 ** min(stage, 2)
            layers.append(_Residual(before, channels, stride=1 if stage == 0 else 2))
            before = channels
        super().__init__(layers, before, classes)


@architecture("resnet-deep")
class DeepResNet(_Pooled):
    """The ResNet with a two-layer stem and wider stages, for natural images."""

    def __init__(self, spec: ImageSpec, classes: int, width: int = 40):
        layers = _deep_stem(spec.channels, width, nn.ReLU())
        before = width
        for stage in range(_stages(spec)):
            channels = width * 2 ** min(stage + 1, 3)
            layers.append(_Residual(before, channels, stride=1 if stage == 0 else 2))
            before = channels
        super().__init__(layers, before, classes)


@architecture("mlp")
class MLP(nn.Module):
    """Two hidden layers, no batch norm: nothing but the weights to invert from."""

    def __init__(self, spec: ImageSpec, classes: int, width: int = 512, dropout: float = 0.0):
        super().__init__()
        inputs = spec.channels * spec.height * spec.width
        self.body = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs, width),
            nn.Sequential(nn.ReLU(), nn.Dropout(dropout)),
            nn.Linear(width, width),
            nn.Sequential(nn.ReLU(), nn.Dropout(dropout)),
        )
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.head(self.body(images))


def _heads(width: int) -> int:
    """The most attention heads of at least 32 numbers that divide a token evenly."""
    return next(heads for heads in range(max(1, width // 32), 0, -1) if width % heads == 0)


def _quick_attention(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU, the derivative of PyTorch's fused attention takes most of a step in bf16.

    Plain matrix products don't, and of so few tokens they need little memory.
    """
    in_bf16 = device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return sdpa_kernel(SDPBackend.MATH) if in_bf16 else nullcontext()


@architecture("vit")
class ViT(nn.Module):
    """Small vision transformer (Dosovitskiy et al. 2021), pre-norm, mean-pooled tokens."""

    def __init__(self, spec: ImageSpec, classes: int, width: int = 96, depth: int = 6):
        super().__init__()
        patch = max(2, min(spec.height, spec.width) // 8)
        tokens = (spec.height // patch) * (spec.width // patch)
        self.patch = nn.Conv2d(spec.channels, width, patch, stride=patch)
        self.position = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width,
            nhead=_heads(width),
            dim_feedforward=2 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.body = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        tokens = self.patch(images).flatten(2).transpose(1, 2) + self.position
        with _quick_attention(images.device):
            return self.head(self.norm(self.body(tokens)).mean(dim=1))

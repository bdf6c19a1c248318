"""What a generator is told about the class it should draw.

Four interchangeable schemes after "Network Inversion and Its Applications" (arXiv 2411.17777). A
scheme is a class with :class:`Scheme`'s members; nothing else knows it by name, so a new one is
one class with the ``@scheme`` decorator, or any class named ``package.module:Class``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from preimage.errors import PreimageError
from preimage.imported import build_scheme
from preimage.plugins import is_plugin
from preimage.types import Condition


class Scheme(Protocol):
    """How labels become conditions."""

    classes: int

    @property
    def vector_size(self) -> int:
        """Numbers that join the latent, 0 for none."""

    @property
    def plane_count(self) -> int:
        """Planes that join the feature map half-way, 0 for none."""

    def __call__(self, labels: Tensor, generator: torch.Generator) -> Condition:
        """Draw one condition for each of the labels (B,), on the CPU."""


_SCHEMES: dict[str, Callable[..., Scheme]] = {}
_S = TypeVar("_S")


def scheme(name: str) -> Callable[[type[_S]], type[_S]]:
    """Register a class ``(classes, size, spread, margin) -> Scheme`` under `name`."""

    def register(builder: type[_S]) -> type[_S]:
        _SCHEMES[name] = cast(Callable[..., Scheme], builder)
        return builder

    return register


def names() -> tuple[str, ...]:
    """Names that :func:`make_scheme` knows."""
    return tuple(_SCHEMES)


def make_scheme(
    name: str, classes: int, size: tuple[int, int], spread: float, margin: float
) -> Scheme:
    """Build a conditioning scheme.

    Args:
        name: one of :func:`names`, or ``package.module:Class`` of a user's own.
        classes: number of classes K.
        size: (h, w) of the feature map that planes join.
        spread: standard deviation of the normal numbers behind a conditioning vector; the
            larger, the nearer the vector to one-hot.
        margin: natural logarithm of the least ratio of its largest entry to the next.

    Raises:
        PreimageError: for an unknown name, or a class that is no scheme.
    """
    if is_plugin(name):
        return cast(Scheme, build_scheme(name, classes, size, spread, margin))
    if name not in _SCHEMES:
        raise PreimageError(
            f"expected a conditioning scheme out of {', '.join(names())} or package.module:Class, "
            f"found '{name}'; choose one of those with --conditioning"
        )
    return _SCHEMES[name](classes, size, spread, margin)


def check_labels(labels: Tensor | Sequence[int], classes: int) -> None:
    """Refuse class indices that do not exist.

    Raises:
        PreimageError: when a label is below 0 or not below `classes`.
    """
    numbers = labels.tolist() if isinstance(labels, Tensor) else labels
    wrong = next((number for number in numbers if not 0 <= number < classes), None)
    if wrong is not None:
        raise PreimageError(
            f"expected class indices from 0 to {classes - 1}, found {wrong}; count classes from 0"
        )


def soft_vectors(
    labels: Tensor, classes: int, spread: float, margin: float, generator: torch.Generator
) -> Tensor:
    """Random distributions (B, K) whose argmax is the label.

    ``softmax(n)`` with n ~ N(0, spread^2 I), the largest entry swapped into the label's place:
    the distribution of such a vector given its argmax, since all places are alike. The largest is
    then raised by `margin`, so that the label's probability is at least ``exp(margin)`` times the
    runner-up's. The paper has margin 0, where near-ties ask for images that no argmax can tell.
    """
    numbers = torch.randn(len(labels), classes, generator=generator) * spread
    rows = torch.arange(len(labels))
    top = numbers.argmax(1)
    largest, other = numbers[rows, top], numbers[rows, labels]
    numbers[rows, top] = other
    numbers[rows, labels] = largest + margin
    return numbers.softmax(1)


def hot_planes(labels: Tensor, classes: int, size: tuple[int, int]) -> Tensor:
    """Planes (B, P, h, w) with a cross of ones that only the label's own class has.

    The paper's K x K matrix of zeros with row and column k set to one, brought to the feature
    map by repeating rows and columns. Where K exceeds the map's shorter side n, resampling would
    make classes alike, so k is written in base n and each digit has a plane of its own.
    """
    base = min(classes, *size)
    count = plane_count(classes, size)
    digits = torch.stack([labels // base**place % base for place in range(count)], dim=1)
    hot = F.one_hot(digits, base).float()
    cross = torch.maximum(hot[..., :, None], hot[..., None, :])
    return F.interpolate(cross, size=size, mode="nearest")


def plane_count(classes: int, size: tuple[int, int]) -> int:
    """Digits that tell `classes` classes apart on a map of this size."""
    base = min(classes, *size)
    count = max(1, math.ceil(math.log(classes) / math.log(base)))
    # the quotient of logarithms may be off by one unit in the last place
    return count if base**count >= classes else count + 1


@scheme("label")
@dataclass(frozen=True)
class Label:
    """The class itself, one-hot: the target and the vector that joins the latent."""

    classes: int
    size: tuple[int, int]
    spread: float
    margin: float
    plane_count: ClassVar[int] = 0

    @property
    def vector_size(self) -> int:
        """K."""
        return self.classes

    def __call__(self, labels: Tensor, generator: torch.Generator) -> Condition:
        """One-hot target and vector."""
        check_labels(labels, self.classes)
        hot = F.one_hot(labels, self.classes).float()
        return Condition(labels, hot, hot, None)


@scheme("vector")
@dataclass(frozen=True)
class Vector:
    """A soft random distribution that hides the class as its argmax."""

    classes: int
    size: tuple[int, int]
    spread: float
    margin: float
    plane_count: ClassVar[int] = 0

    @property
    def vector_size(self) -> int:
        """K."""
        return self.classes

    def __call__(self, labels: Tensor, generator: torch.Generator) -> Condition:
        """A random distribution as target and vector."""
        check_labels(labels, self.classes)
        soft = soft_vectors(labels, self.classes, self.spread, self.margin, generator)
        return Condition(labels, soft, soft, None)


@scheme("matrix")
@dataclass(frozen=True)
class Matrix:
    """A hot matrix as planes half-way; the target is one-hot."""

    classes: int
    size: tuple[int, int]
    spread: float
    margin: float
    vector_size: ClassVar[int] = 0

    @property
    def plane_count(self) -> int:
        """Planes that tell the classes apart."""
        return plane_count(self.classes, self.size)

    def __call__(self, labels: Tensor, generator: torch.Generator) -> Condition:
        """One-hot target and hot planes."""
        check_labels(labels, self.classes)
        target = F.one_hot(labels, self.classes).float()
        return Condition(labels, target, None, hot_planes(labels, self.classes, self.size))


@scheme("vector-matrix")
@dataclass(frozen=True)
class VectorMatrix:
    """Both at once, the paper's choice: a soft vector at the start, hot planes half-way."""

    classes: int
    size: tuple[int, int]
    spread: float
    margin: float

    @property
    def vector_size(self) -> int:
        """K."""
        return self.classes

    @property
    def plane_count(self) -> int:
        """Planes that tell the classes apart."""
        return plane_count(self.classes, self.size)

    def __call__(self, labels: Tensor, generator: torch.Generator) -> Condition:
        """A random distribution as target and vector, and hot planes."""
        check_labels(labels, self.classes)
        soft = soft_vectors(labels, self.classes, self.spread, self.margin, generator)
        return Condition(labels, soft, soft, hot_planes(labels, self.classes, self.size))

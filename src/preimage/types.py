"""The values that flow through preimage. Little more than shapes lives here.

Images are float tensors in [0, 1] of shape (B, C, H, W) everywhere; a classifier's own
normalisation is the business of :class:`preimage.classifier.Classifier` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from preimage.errors import PreimageError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ImageSpec:
    """Shape of one image: channels (1 grey, 3 colour), height and width in pixels."""

    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (self.channels, self.height, self.width)

    @classmethod
    def of(cls, image: ImageSpec | Sequence[int]) -> ImageSpec:
        """The shape that a user gave as three numbers, or as it is.

        Raises:
            PreimageError: for another count of numbers.
        """
        if isinstance(image, ImageSpec):
            return image
        if len(image) != 3:
            raise PreimageError(
                f"expected image=(channels, height, width), found {tuple(image)}; give three "
                "numbers"
            )
        return cls(*image)

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"


class Prediction(NamedTuple):
    """What a classifier says of a batch."""

    logits: Tensor
    """(B, K), not normalised."""
    features: Tensor
    """(B, D), the input of the last linear layer, flattened."""


class Condition(NamedTuple):
    """What a generator is asked for."""

    label: Tensor
    """(B,) int64, the class."""
    target: Tensor
    """(B, K), the distribution the classifier's softmax should match; its argmax is `label`."""
    vector: Tensor | None
    """(B, C), joins the latent; None where the scheme has none."""
    planes: Tensor | None
    """(B, P, h, w), joins the feature map half-way; None where the scheme has none."""

    def rows(self, index: slice | Tensor) -> Condition:
        """The condition of these rows of the batch."""
        return Condition(*(None if part is None else part[index] for part in self))  # type: ignore[arg-type]


class Layer(NamedTuple):
    """What enters one of a classifier's batch norms, and what it was over the real images."""

    values: Tensor
    """(B, C, ...), in whatever precision the classifier works."""
    mean: Tensor
    """(C,), the running mean."""
    std: Tensor
    """(C,), the root of the running variance."""


class Sample(NamedTuple):
    """Generated images, what was asked for and what the classifier says of them."""

    images: Tensor
    """(B, C, H, W) in [0, 1]."""
    condition: Condition
    prediction: Prediction
    layers: tuple[Layer, ...] = ()
    """What enters the classifier's batch norms, first to last. Filled in training when a term asks
    for it; empty for a classifier without batch norm."""

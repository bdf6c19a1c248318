"""Draw many samples of balanced classes, a chunk at a time, and check what comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from preimage.errors import PreimageError
from preimage.runtime import stream
from preimage.types import ImageSpec, Prediction, Sample

if TYPE_CHECKING:
    from preimage.data import ImageSet

CHUNK = 200
"""Samples drawn or classified at once: quick for small images, modest in memory for large ones."""

MOST_BYTES = 2**30
"""Memory that the images kept at one time may take."""

_SMALL_PIXELS = 64 * 64

Ask = Callable[[Tensor], Prediction]
"""A classifier: images (B, C, H, W) in [0, 1] to its logits and features."""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


class Draw(Protocol):
    """Whatever gives fresh samples, :meth:`preimage.inversion.Inversion.sample` for one."""

    def __call__(self, labels: Tensor, *, seed: int) -> Sample:
        """Samples for `labels` (B,) int64; the same for the same labels and seed."""


def balanced_labels(count: int, classes: int) -> Tensor:
    """The classes in turn, (count,) int64: each has floor or ceil of count / classes."""
    return torch.arange(count) % classes


def chunks(count: int, spec: ImageSpec | None = None) -> Iterator[slice]:
    """Cut `count` rows into slices of at most :data:`CHUNK`, fewer of large images of `spec`."""
    step = CHUNK if spec is None else at_once(spec, CHUNK)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def at_once(spec: ImageSpec, most: int) -> int:
    """How many images to work on at one time: `most` of up to 64 x 64 pixels, fewer of larger ones.

    At least 1; memory is then bounded by what `most` small images take.
    """
    return max(1, min(most, most * _SMALL_PIXELS // (spec.height * spec.width)))


def draw_chunks(
    draw: Draw, labels: Tensor, classes: int, spec: ImageSpec | None, *key: int | str
) -> Iterator[tuple[slice, Sample]]:
    """Draw samples for `labels` in chunks, without gradients.

    Args:
        draw: gives the samples.
        labels: (N,) int64 in [0, classes).
        classes: number of logits to expect of the target.
        spec: shape of image to expect, None for any.
        key: what the chunks' seeds depend on, together with the chunk's place.

    Yields:
        The rows of `labels` that the chunk is for, and its samples.

    Raises:
        PreimageError: for images that are not finite, of another shape or not one per label, or a
            target that does not answer with `classes` finite logits.
    """
    for rows in chunks(len(labels)):
        seed = int(stream(*key, rows.start).initial_seed() % 2**31)
        with torch.no_grad():
            sample = draw(labels[rows], seed=seed)
        _check_images(sample.images, rows.stop - rows.start, spec)
        check_logits(sample.prediction.logits, rows.stop - rows.start, classes, "the target")
        yield rows, sample


def home(asked: Ask, otherwise: torch.device) -> torch.device:
    """Where a classifier wants its images: at its weights, else (a plain function) `otherwise`."""
    weight = next(asked.parameters(), None) if isinstance(asked, nn.Module) else None
    return otherwise if weight is None else weight.device


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] rounded to uint8, as real images are, on the CPU."""
    return images.detach().mul(255).round().clamp(0, 255).to("cpu", torch.uint8)


def check_logits(logits: Tensor, count: int, classes: int, who: str) -> None:
    """Refuse an answer that accuracy cannot be counted from.

    Raises:
        PreimageError: unless `logits` is (count, classes) and finite.
    """
    if tuple(logits.shape) != (count, classes):
        raise PreimageError(
            f"expected {who} to answer {count} images with logits of shape {(count, classes)}, "
            f"found {tuple(logits.shape)}; check that it tells the same classes apart"
        )
    if not bool(torch.isfinite(logits).all()):
        raise PreimageError(
            f"expected finite logits of {who}, found NaN or infinity; check its weights and its "
            "normalisation"
        )


def check_real(real: ImageSet, classes: int) -> None:
    """Refuse real images that the generated ones cannot be compared with.

    Raises:
        PreimageError: for no images, or labels of another number of classes.
    """
    if len(real) == 0 or real.classes != classes:
        raise PreimageError(
            f"expected real images labelled with {classes} classes, found {len(real)} images of "
            f"{real.classes} classes; give the test set that belongs to the classifier"
        )


def _check_images(images: Tensor, count: int, spec: ImageSpec | None) -> None:
    if images.ndim != 4 or len(images) != count:
        raise PreimageError(
            f"expected {count} generated images of shape (B, C, H, W), found a tensor of "
            f"{tuple(images.shape)}; return one image for every label"
        )
    found = ImageSpec(*images.shape[1:])
    if spec is not None and found != spec:
        raise PreimageError(
            f"expected generated images of shape {spec}, found {found}; convert the real images "
            "to the shape that is generated, and measure with the classifier that was inverted"
        )
    finite = torch.isfinite(images).flatten(1).all(1)
    if not bool(finite.all()):
        raise PreimageError(
            f"expected finite generated images, found NaN or infinity in "
            f"{int((~finite).sum())} of {count}; the inversion diverged, so use an earlier state "
            "of it or invert again with a lower learning rate"
        )

"""One safetensors file per trained reference classifier, with its card in the header."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from preimage.classifier import Classifier
from preimage.errors import PreimageError
from preimage.tensors import pack, understood
from preimage.types import ImageSpec
from preimage.zoo.architectures import build

FORMAT = "preimage-classifier-1"
_WHOLE = ("classifier", "train it again or choose another file")


@dataclass(frozen=True)
class Card:
    """What is known of a trained reference classifier, and all it takes to build it again."""

    dataset: str
    arch: str
    width: int | None
    image: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seed: int
    epochs: int
    train_images: int
    parameters: int
    test_accuracy: float | None
    """Share of the test split that it classifies correctly; None where there is no test split."""
    command: str
    train_accuracy: float | None = None
    """The same of the images that it was trained on; None in older cards."""
    epsilon: float | None = None
    """Of (epsilon, 1/images)-differential privacy; None without DP-SGD."""

    @property
    def spec(self) -> ImageSpec:
        """Shape of one image."""
        return ImageSpec(*self.image)


def to_bytes(network: nn.Module, card: Card) -> bytes:
    """A safetensors file: the network's state and, in the header, its card."""
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    return pack(state, {"format": FORMAT, "card": json.dumps(asdict(card))})


def read_card(path: Path) -> Card:
    """The card of a classifier file.

    Raises:
        PreimageError: when `path` is not such a file, or one of another version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise PreimageError(
            f"expected a classifier file that `preimage train` wrote, found an unreadable "
            f"'{path}'; train it again or choose another file"
        ) from error
    if header.get("format") != FORMAT:
        raise PreimageError(
            f"expected a classifier file of format {FORMAT}, found "
            f"{header.get('format', 'none')} in '{path}'; for bare weights name the network as "
            "package.module:factory and give the file with --checkpoint"
        )
    with understood(path, *_WHOLE):
        return _card(json.loads(header["card"]))


def load_file(path: Path, name: str) -> Classifier:
    """Build the classifier that a file holds.

    Raises:
        PreimageError: as :func:`read_card`.
    """
    card = read_card(path)
    with understood(path, *_WHOLE), safe_open(path, framework="pt") as file:
        network = build(card.arch, card.spec, len(card.class_names), card.width)
        network.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    network.to(memory_format=torch.channels_last)
    return Classifier(
        network.eval(),
        card.spec,
        mean=card.mean,
        std=card.std,
        class_names=card.class_names,
        name=name,
        arch=card.arch,
    )


def _card(values: dict[str, Any]) -> Card:
    # JSON has no tuples, and a later version may have written more
    known = [field.name for field in fields(Card)]
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name in known
    }
    return Card(**given)

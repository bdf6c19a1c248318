"""How the network of a detector is built again, before the weights in its file are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from preimage.classifier import Classifier
from preimage.config import ModelConfig
from preimage.errors import PreimageError
from preimage.ood.heads import GARBAGE, Mode, known_weights, with_garbage
from preimage.types import ImageSpec


class Recipe(Protocol):
    """How to build the network of a detector again, before its weights are loaded."""

    @property
    def kind(self) -> str:
        """What tells the recipes of a detector file apart."""

    def build(self, weights: Mapping[str, Tensor]) -> Classifier:
        """The classifier with its garbage class, before `weights`, the network's, are loaded."""


@dataclass(frozen=True)
class FromScratch:
    """A reference architecture with one class more."""

    arch: str
    width: int | None
    image: tuple[int, int, int]
    class_names: tuple[str, ...]
    """Of the n classes, without garbage."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    kind: str = "scratch"

    def build(self, weights: Mapping[str, Tensor]) -> Classifier:
        """See :class:`Recipe`."""
        return self._of((*self.class_names, GARBAGE))

    def plain(self) -> Classifier:
        """The same without garbage, weights as they come."""
        return self._of(self.class_names)

    def _of(self, class_names: tuple[str, ...]) -> Classifier:
        from preimage.zoo.architectures import build

        spec = ImageSpec(*self.image)
        network = build(self.arch, spec, len(class_names), self.width)
        return Classifier(
            network.to(memory_format=torch.channels_last).eval(),
            spec,
            mean=self.mean,
            std=self.std,
            class_names=class_names,
            arch=self.arch,
        )


@dataclass(frozen=True)
class FromModel:
    """A classifier that has a name of its own, with a garbage class added."""

    model: ModelConfig
    head: Mode
    kind: str = "model"
    reference: FromScratch | None = None
    """Of a classifier that `preimage train` made, how to build it where its run folder is not."""
    class_names: tuple[str, ...] | None = None
    """Of the n classes, where the settings gave them and not the model: a file that they came from
    may be gone."""

    def build(self, weights: Mapping[str, Tensor]) -> Classifier:
        """See :class:`Recipe`.

        Raises:
            PreimageError: where the code, or the archive, that builds the network is not at hand.
        """
        start = self._start(weights) if self.reference is None else self.reference.plain()
        if self.class_names is not None:
            start.class_names = self.class_names
        return with_garbage(start, self.head)

    def _start(self, weights: Mapping[str, Tensor]) -> Classifier:
        from preimage.sources import WithWeights, load_classifier

        # with first weights a deep network may give answers that are not finite
        known = known_weights(weights, self.head)
        config = WithWeights(**{**vars(self.model), "checkpoint": None}, weights=known)
        try:
            return load_classifier(config)
        except PreimageError as error:
            raise PreimageError(
                f"expected '{self.model.model}' to build the detector's network by, of which the "
                f"detector file holds the weights alone, found that it cannot be loaded: {error}"
            ) from error


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """For :func:`recipe_from`; of one that was read from an older file as they were there."""
    values = asdict(recipe)  # type: ignore[call-overload]
    if "model" in values:
        values["model"] = _without(values["model"], "class_names")
    return _without(values, "reference", "class_names")


def _without(values: dict[str, Any], *later: str) -> dict[str, Any]:
    """What says nothing of settings that came later, where they are not in use."""
    return {name: v for name, v in values.items() if name not in later or v is not None}


def recipe_from(values: dict[str, Any]) -> FromScratch | FromModel:
    """The recipe that :func:`recipe_values` told of."""
    kind = values.pop("kind")
    if kind == FromModel.kind:
        reference, names = values.get("reference"), values.get("class_names")
        return FromModel(
            ModelConfig(**_tuples(values["model"])),
            values["head"],
            reference=reference and FromScratch(**_tuples(reference)),
            class_names=names and tuple(names),
        )
    return FromScratch(**_tuples(values))


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}

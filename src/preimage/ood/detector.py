"""A detector: a classifier with a garbage class, a score, and a threshold."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from preimage.classifier import Classifier
from preimage.config import ModelConfig
from preimage.data import ImageSet
from preimage.drawing import chunks
from preimage.errors import PreimageError
from preimage.files import write_atomic
from preimage.ood.heads import GARBAGE, with_garbage
from preimage.ood.layers import LayerDistance, look
from preimage.ood.scores import Evidence, find_score, garbage_odds, score_names
from preimage.tensors import below, pack, unpack
from preimage.types import ImageSpec

FORMAT = "preimage-detector-1"
DETECTOR_FILE = "detector.safetensors"

Images = ImageSet | Tensor | Iterable[Any]
"""An image set, images (N, C, H, W) in [0, 1], or batches of these, alone or with labels."""

_FEWEST = 4
_NETWORK, _LAYERS = "network.", "layers."


class Recipe(Protocol):
    """How to build the network of a detector again, before its weights are loaded."""

    @property
    def kind(self) -> str:
        """What tells the recipes of a detector file apart."""

    def build(self) -> Classifier:
        """The classifier with its garbage class, weights as they come."""


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

    def build(self) -> Classifier:
        """See :class:`Recipe`."""
        from preimage.zoo.architectures import build

        spec = ImageSpec(*self.image)
        network = build(self.arch, spec, len(self.class_names) + 1, self.width)
        return Classifier(
            network.to(memory_format=torch.channels_last).eval(),
            spec,
            mean=self.mean,
            std=self.std,
            class_names=(*self.class_names, GARBAGE),
            arch=self.arch,
        )


@dataclass(frozen=True)
class FromModel:
    """A classifier that has a name of its own, with a garbage class added."""

    model: ModelConfig
    head: str
    kind: str = "model"

    def build(self) -> Classifier:
        """See :class:`Recipe`."""
        from preimage.sources import load_classifier

        return with_garbage(load_classifier(self.model), self.head)  # type: ignore[arg-type]


class Gauge(NamedTuple):
    """How the parts of a score vary over held-out real images."""

    garbage_mean: float = 0.0
    garbage_deviation: float = 1.0
    layers_deviation: float = 1.0


class Detector:
    """Tells how far out-of-distribution images are: larger scores mean farther.

    It has the form of pytorch-ood's detectors: :meth:`fit`, then :meth:`predict` or a call.

    Args:
        classifier: of n + 1 classes, the last of them garbage.
        score: name of the score: garbage, uncertainty, layers or combined.
        recipe: how to build the classifier again; needed for :meth:`save`.

    Raises:
        PreimageError: for an unknown score.
    """

    def __init__(
        self,
        classifier: Classifier,
        score: str = "combined",
        recipe: Recipe | None = None,
    ):
        self.classifier, self.score, self.recipe = classifier, score, recipe
        self.thresholds: dict[str, float] = {}
        """By the name of the score, where images begin to be out-of-distribution."""
        self._score = find_score(score)
        self._layers = LayerDistance()
        self._gauge = Gauge()

    @property
    def threshold(self) -> float | None:
        """Of its own score; None before :meth:`fit`."""
        return self.thresholds.get(self.score)

    @property
    def spec(self) -> ImageSpec:
        """Shape of the images that it takes."""
        return self.classifier.spec

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the n classes, without garbage."""
        return self.classifier.class_names[:-1]

    def fit(
        self,
        known: Images,
        tpr: float = 0.99,
        reference: Images | None = None,
        unfamiliar: Images | None = None,
    ) -> Detector:
        """Learn from in-distribution images alone what is usual, and where it ends.

        Args:
            known: images of the classes that were not trained on: an image set, a tensor
                (N, C, H, W) in [0, 1], or batches of such tensors, alone or with labels.
            tpr: share of them that is to count as in-distribution, in (0, 1].
            reference: more images of the classes, trained on or not, to know the layers by; None
                takes every other one of `known` for that.
            unfamiliar: what the thresholds are chosen on instead of `known`, where those look
                like images that were trained on: for example the same under random changes.

        Raises:
            PreimageError: for fewer than 4 images, or a share that is out of range.
        """
        if not 0 < tpr <= 1:
            raise PreimageError(
                f"expected a true positive rate above 0 and up to 1, found {tpr}; change it"
            )
        logits, described = self._look_at(known)
        if len(logits) < _FEWEST:
            raise PreimageError(
                f"expected at least {_FEWEST} images to choose a threshold by, found "
                f"{len(logits)}; give more"
            )
        if reference is None:
            self._layers.fit([v[::2] for v in described], [v[1::2] for v in described])
        else:
            self._layers.fit(self._look_at(reference)[1], described)
        odds, layers = garbage_odds(logits), self._layers(described).mean(1)
        self._gauge = Gauge(float(odds.mean()), _deviation(odds), _deviation(layers))
        if unfamiliar is not None:
            logits, described = self._look_at(unfamiliar)
        evidence = self._evidence(logits, described)
        for name in score_names():
            self.thresholds[name] = float(threshold_at(find_score(name)(evidence), tpr))
        return self

    def predict(self, images: Tensor) -> Tensor:
        """Scores (B,) of images (B, C, H, W) in [0, 1], on the CPU.

        Raises:
            PreimageError: for images of another shape, or before :meth:`fit`.
        """
        return self._score(self.evidence(images))

    __call__ = predict

    def evidence(self, images: Tensor) -> Evidence:
        """What all scores are made from, of images (B, C, H, W) in [0, 1], on the CPU.

        Raises:
            PreimageError: as :meth:`predict`.
        """
        if images.ndim != 4 or images.shape[1:] != self.spec.shape:
            raise PreimageError(
                f"expected images (B, {', '.join(map(str, self.spec.shape))}), found "
                f"{tuple(images.shape)}; convert them"
            )
        if not self.thresholds:
            raise PreimageError("expected a detector that was fitted, found none; call fit first")
        prediction, described = look(self.classifier, images)
        return self._evidence(prediction.logits, described)

    def _evidence(self, logits: Tensor, described: list[Tensor]) -> Evidence:
        gauge = self._gauge
        garbage = (garbage_odds(logits) - gauge.garbage_mean) / gauge.garbage_deviation
        return Evidence(logits, garbage, self._layers(described) / gauge.layers_deviation)

    def _look_at(self, images: Images) -> tuple[Tensor, list[Tensor]]:
        """Logits and layers of all of `images`."""
        found = [look(self.classifier, batch) for batch in _batches(images)]
        if not found:
            return torch.empty(0, self.classifier.classes), []
        logits = torch.cat([prediction.logits for prediction, _ in found])
        columns = zip(*(described for _, described in found), strict=True)
        return logits, [torch.cat(column) for column in columns]

    def is_ood(self, scores: Tensor) -> Tensor:
        """Which scores are beyond the threshold, (B,) bool.

        Raises:
            PreimageError: before :meth:`fit`.
        """
        if self.threshold is None:
            raise PreimageError("expected a threshold, found none; call fit first")
        return scores > self.threshold

    def save(self, path: str | Path) -> None:
        """Write the detector to one safetensors file, whole or not at all.

        Raises:
            PreimageError: when the detector does not know how its network is built.
            DiskError: when the file cannot be written.
        """
        write_atomic(Path(path), self.to_bytes())

    def to_bytes(self) -> bytes:
        """As :meth:`save`, but the file's content."""
        if self.recipe is None:
            raise PreimageError(
                "expected a detector that knows how to build its network again, found one made "
                "round a network in memory; pass recipe= when making it"
            )
        header = {
            "format": FORMAT,
            "recipe": json.dumps(asdict(self.recipe)),  # type: ignore[call-overload]
            "score": self.score,
            "thresholds": json.dumps(self.thresholds),
            "gauge": json.dumps(self._gauge),
        }
        state = {
            **{_NETWORK + name: t for name, t in self.classifier.network.state_dict().items()},
            **{_LAYERS + name: t for name, t in self._layers.state_dict().items()},
        }
        return pack({name: t.detach().cpu().contiguous() for name, t in state.items()}, header)

    @classmethod
    def load(cls, path: str | Path) -> Detector:
        """Read what :meth:`save` wrote; a run folder of `preimage ood train` will do.

        Raises:
            PreimageError: when there is no such file, or one that is damaged or of another version.
        """
        path = Path(path)
        file = path / DETECTOR_FILE if path.is_dir() else path
        header, state = unpack(
            file, FORMAT, "detector", "check the path, or finish `preimage ood train`"
        )
        values = json.loads(header["recipe"])
        recipe = _recipe(values)
        classifier = recipe.build()
        classifier.network.load_state_dict(below(_NETWORK, state))
        classifier.name = path.stem if path.is_file() else path.name
        detector = cls(classifier, header["score"], recipe)
        detector.thresholds = json.loads(header["thresholds"])
        detector._gauge = Gauge(*json.loads(header["gauge"]))
        detector._layers.load_state_dict(below(_LAYERS, state))
        return detector


def _deviation(values: Tensor) -> float:
    return float(values.std().clamp_min(1e-6))


def threshold_at(scores: Tensor, tpr: float) -> Tensor:
    """The lowest score that at least a share `tpr` of `scores` (N,) does not exceed."""
    rank = max(1, -int(-tpr * len(scores) // 1))
    return scores.sort().values[rank - 1]


def _batches(known: Images) -> Iterable[Tensor]:
    if isinstance(known, ImageSet):
        return (known.floats(rows) for rows in chunks(len(known)))
    if isinstance(known, Tensor):
        return [known] if len(known) else []
    return (batch if isinstance(batch, Tensor) else batch[0] for batch in known)


def _recipe(values: dict[str, Any]) -> FromScratch | FromModel:
    kind = values.pop("kind")
    if kind == FromModel.kind:
        return FromModel(ModelConfig(**_tuples(values["model"])), values["head"])
    return FromScratch(**_tuples(values))


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}

"""A detector: a classifier with a garbage class, a score, and a threshold."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preimage.classifier import Classifier
from preimage.data import ImageSet
from preimage.drawing import chunks
from preimage.errors import PreimageError
from preimage.files import write_atomic
from preimage.limits import check_tpr
from preimage.ood.gauge import Gauge, measures
from preimage.ood.layers import LayerDistance, Look, look, together
from preimage.ood.nearness import Nearness
from preimage.ood.recipe import Recipe, recipe_from, recipe_values
from preimage.ood.scores import Evidence, find_score, judged, score_names
from preimage.ood.threshold import TPR, HeldOut
from preimage.runtime import random_state, stream
from preimage.tensors import below, format_of, pack, understood, unpack
from preimage.types import ImageSpec

_FORMATS = "preimage-detector-"
FORMAT = f"{_FORMATS}2"
DETECTOR_FILE = "detector.safetensors"

Images = ImageSet | Tensor | Iterable[Any]
"""An image set, images (N, C, H, W) in [0, 1], or batches of these, alone or with labels (B,): a
negative label says, as in pytorch-ood, that the image is none of the classes."""

FEWEST = 4
"""Images that a detector can be fitted to, at least."""
_ROUNDING = 1e-3
"""How far beyond [0, 1] a pixel may lie: resizing leaves such traces."""
_NETWORK, _LAYERS, _NEARNESS, _HELD_OUT = "network.", "layers.", "nearness.", "held_out."
_SCORES, _FILMS = "scores.", "films"


class Detector:
    """Tells how far out-of-distribution images are: larger scores mean farther.

    It has the form of pytorch-ood's detectors: :meth:`fit`, then :meth:`predict` or a call.

    Args:
        classifier: of n + 1 classes, the last of them garbage.
        score: name of the score: garbage, uncertainty, features, layers or combined.
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
        self.tpr: float | None = None
        """Share of held-out images that the thresholds let through; None before :meth:`fit`, and
        where an older file does not tell."""
        find_score(score)
        self._held_out: HeldOut | None = None
        self._layers, self._nearness = LayerDistance(), Nearness()
        self._gauge: Gauge | None = None

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
        tpr: float = TPR,
        reference: Images | None = None,
        unfamiliar: Images | None = None,
        films: Tensor | None = None,
    ) -> Detector:
        """Learn from in-distribution images alone what is usual, and where it ends.

        Args:
            known: images of the classes that were not trained on: an image set, a tensor
                (N, C, H, W) in [0, 1], or batches of such tensors, alone or with labels. Images
                of batches whose label is negative are none of the classes, as in pytorch-ood, and
                are left out, here and in what follows.
            tpr: share of them that is to count as in-distribution, in (0, 1].
            reference: more images of the classes, trained on or not, to know features and layers
                by; None takes every other one of `known` for that.
            unfamiliar: what the thresholds are chosen on instead of `known` (of which it is those
                that were not taken for the reference), where those look like images that were
                trained on: for example the same under random changes.
            films: (N,) int64, the same number for those of these images (of batches those that are
                not left out) that are frames of one film: the thresholds then allow for how little
                a few films say of others (:func:`~preimage.ood.threshold.threshold_of_films`). None
                where each image is one of its own.

        Raises:
            PreimageError: for fewer than 4 images, images of another shape or beyond [0, 1], a
                share that is out of range, or another number of films' numbers than of images.
        """
        check_tpr(tpr)
        all_known = self._look_at(known)
        if reference is None:
            usual, held_out = all_known.rows(slice(0, None, 2)), all_known.rows(slice(1, None, 2))
        else:
            usual, held_out = self._look_at(reference), all_known
        # some of them are kept to measure distances from: any, whatever order they come in
        usual = usual.rows(_shuffled(len(usual.logits)))
        self._layers.fit(usual.layers, held_out.layers)
        self._nearness.fit(usual.features, usual.logits[:, :-1].argmax(1))
        # never on the reference: each of its images is its own nearest neighbour
        chosen = held_out if unfamiliar is None else self._look_at(unfamiliar)
        films = _of_films(films, len(chosen.logits))
        measured = self._measures(chosen)
        self._gauge = Gauge.of(measured)
        evidence = _evidence(self._gauge, chosen, measured)
        self._held_out = HeldOut({name: judged(name, evidence) for name in score_names()}, films)
        return self.set_tpr(tpr)

    @property
    def can_set_tpr(self) -> bool:
        """Whether the scores of the held-out images are known, which older files do not keep."""
        return self._held_out is not None

    def set_tpr(self, tpr: float) -> Detector:
        """Choose all thresholds anew, from the scores of the held-out images of :meth:`fit`.

        Args:
            tpr: share of them that is to count as in-distribution, in (0, 1].

        Raises:
            PreimageError: as :meth:`thresholds_at`; the thresholds then stay as they were.
        """
        self.thresholds, self.tpr = self.thresholds_at(tpr), tpr
        return self

    def thresholds_at(self, tpr: float) -> dict[str, float]:
        """What :attr:`thresholds` would be for another share, in (0, 1].

        Raises:
            PreimageError: for a share that is out of range, or where the scores of the held-out
                images are not known: before :meth:`fit`, and of a file from before they were kept.
        """
        check_tpr(tpr)
        self._fitted()
        if self._held_out is None:
            raise PreimageError(
                "expected the scores of held-out images, from which another true positive rate "
                "(--tpr) sets the thresholds, found a detector file from before they were kept; "
                "train the detector anew with `preimage ood train`"
            )
        return self._held_out.thresholds(tpr)

    def predict(self, images: Tensor) -> Tensor:
        """Scores (B,) of images (B, C, H, W) in [0, 1], on the CPU.

        Raises:
            PreimageError: for images of another shape, or before :meth:`fit`.
        """
        return judged(self.score, self.evidence(images))

    __call__ = predict

    def evidence(self, images: Tensor) -> Evidence:
        """What all scores are made from, of images (B, C, H, W) in [0, 1], on the CPU.

        Raises:
            PreimageError: as :meth:`predict`.
        """
        self._check(images)
        gauge = self._fitted()
        seen = look(self.classifier, images)
        return _evidence(gauge, seen, self._measures(seen))

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1:] != self.spec.shape or not len(images):
            raise PreimageError(
                f"expected images (B, {', '.join(map(str, self.spec.shape))}), at least one, found "
                f"{tuple(images.shape)}; convert them"
            )
        least, most = (float(end) for end in images.aminmax())
        if not (images.is_floating_point() and least >= -_ROUNDING and most <= 1 + _ROUNDING):
            raise PreimageError(
                f"expected images as floats in [0, 1], found {images.dtype} from {least:g} to "
                f"{most:g}; scale them (bytes by 255)"
            )

    def _fitted(self) -> Gauge:
        if self._gauge is None:
            raise PreimageError("expected a detector that was fitted, found none; call fit first")
        return self._gauge

    def _measures(self, seen: Look) -> Tensor:
        return measures(seen.logits, self._nearness(seen.features), self._layers(seen.layers))

    def _look_at(self, images: Images) -> Look:
        """At all of `images`."""
        found = []
        for batch in _batches(images):
            self._check(batch)
            found.append(look(self.classifier, batch))
        count = sum(len(part.logits) for part in found)
        if count < FEWEST:
            raise PreimageError(
                f"expected at least {FEWEST} images to learn what is usual from, found {count}; "
                "give more"
            )
        seen = together(found)
        unclear = int((~torch.isfinite(seen.logits).all(1)).sum())
        if unclear:
            raise PreimageError(
                f"expected finite answers to images of the classes, found NaN or infinity for "
                f"{unclear} of {count}; check the network's code on flat images, and its weights"
            )
        return seen

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
            PreimageError: when the detector was not fitted, or does not know how its network is
                built.
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
            "recipe": json.dumps(recipe_values(self.recipe)),
            "score": self.score,
            "thresholds": json.dumps(self.thresholds),
            "gauge": json.dumps(self._fitted()),
        }
        if self.tpr is not None:
            header["tpr"] = json.dumps(self.tpr)
        state = {
            **{_NETWORK + name: t for name, t in self.classifier.network.state_dict().items()},
            **{_LAYERS + name: t for name, t in self._layers.state_dict().items()},
            **{_NEARNESS + name: t for name, t in self._nearness.state_dict().items()},
            **{_HELD_OUT + name: t for name, t in _packed(self._held_out).items()},
        }
        return pack({name: t.detach().cpu().contiguous() for name, t in state.items()}, header)

    @classmethod
    def load(cls, path: str | Path) -> Detector:
        """Read what :meth:`save` wrote; a run folder of `preimage ood train` will do.

        The file holds all weights: of a classifier that was hardened neither checkpoint nor run
        folder is needed, a user's own factory or archive is.

        Raises:
            PreimageError: when there is no such file, or one that is damaged or of another version,
            or the code that builds its network is not at hand.
        """
        path = Path(path)
        file = path / DETECTOR_FILE if path.is_dir() else path
        kind = ("detector", "check the path, or finish `preimage ood train`")
        header, state = unpack(file, FORMAT, *kind)
        with understood(file, *kind):
            recipe = recipe_from(json.loads(header["recipe"]))
        weights = below(_NETWORK, state)
        with random_state(0):  # first weights are drawn, and then replaced
            classifier = recipe.build(weights)
        try:
            classifier.network.load_state_dict(weights)
        except RuntimeError as error:
            raise PreimageError(
                f"expected the network that the detector in '{path}' was made from, found that "
                f"'{classifier.name}' has other layers by now; make the detector again with "
                "`preimage ood train`"
            ) from error
        classifier.name = path.stem if path.is_file() else path.name
        with understood(file, *kind):
            detector = cls(classifier, header["score"], recipe)
            detector.thresholds = json.loads(header["thresholds"])
            detector._gauge = Gauge(*map(tuple, json.loads(header["gauge"])))
            detector._layers.load_state_dict(below(_LAYERS, state))
            detector._nearness.load_state_dict(below(_NEARNESS, state))
            detector._held_out = _unpacked(below(_HELD_OUT, state))
            detector.tpr = json.loads(header.get("tpr", "null"))
        return detector


def is_detector(path: Path) -> bool:
    """Whether a path names a detector: a run folder that has one, or its file, whatever its name.

    A file that cannot be read counts by its name, so that loading it says what is wrong.
    """
    if path.is_dir():
        return (path / DETECTOR_FILE).is_file()
    form = format_of(path)
    return path.name == DETECTOR_FILE if form is None else form.startswith(_FORMATS)


def _evidence(gauge: Gauge, seen: Look, measured: Tensor) -> Evidence:
    return Evidence(seen.logits, *gauge(measured).float().unbind(1))


def _packed(held_out: HeldOut | None) -> dict[str, Tensor]:
    """Tensors by name, for :func:`_unpacked`."""
    if held_out is None:
        return {}
    films = {} if held_out.films is None else {_FILMS: held_out.films}
    return {**{f"{_SCORES}{name}": t for name, t in held_out.scores.items()}, **films}


def _unpacked(state: dict[str, Tensor]) -> HeldOut | None:
    """None of a file from before the scores were kept."""
    scores = below(_SCORES, state)
    return HeldOut(scores, state.get(_FILMS)) if scores else None


def _of_films(films: Tensor | None, images: int) -> Tensor | None:
    if films is not None and len(films) != images:
        raise PreimageError(
            f"expected a number of a film for each of the {images} images that thresholds are "
            f"chosen on, found {len(films)}; give one for each"
        )
    return films


def _batches(known: Images) -> Iterable[Tensor]:
    if isinstance(known, ImageSet):
        return (known.floats(rows) for rows in chunks(len(known)))
    if isinstance(known, Tensor):
        return [known] if len(known) else []
    batches = (batch if isinstance(batch, Tensor) else _of_classes(*batch) for batch in known)
    return (batch for batch in batches if len(batch))


def _of_classes(images: Tensor, labels: Any = None, *_: Any) -> Tensor:
    """Those images (B, C, H, W) whose labels, where there are any, are not negative."""
    if not isinstance(labels, Tensor) or labels.shape != images.shape[:1]:
        return images
    return images[(labels >= 0).to(images.device)]


def _shuffled(count: int) -> Tensor:
    return torch.randperm(count, generator=stream("detector", count))

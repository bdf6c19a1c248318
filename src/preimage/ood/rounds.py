"""The rounds of inversion that garbage grows by."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor

from preimage.classifier import Classifier, frozen
from preimage.config import GeneratorConfig, HardenConfig, InvertConfig
from preimage.drawing import to_bytes
from preimage.inversion import Inversion
from preimage.loop import Trainer, default_objective
from preimage.ood.exclusion import Known, find_rule
from preimage.types import Prediction


class Candidates(NamedTuple):
    """What a round of inversion came up with."""

    images: Tensor
    """(N, C, H, W) uint8, those that were not excluded."""
    excluded: int
    """How many were."""
    accepted: float
    """Share of all of them that the classifier took for the class asked for."""


class Rounds:
    """Invert the classifier again and again, going on with the same generator.

    All n + 1 classes are inverted, garbage too: a generator that knows where garbage is keeps the
    softmax honest. What was drawn for garbage is not used.

    Args:
        fabric: launched.
        classifier: of n + 1 classes, garbage last.
        rounds: how many there will be.
        config: their length and their loss.
        seed: everything random follows from it.
    """

    def __init__(
        self, fabric: Fabric, classifier: Classifier, rounds: int, config: HardenConfig, seed: int
    ):
        self.classifier, self.config = classifier, config
        self.device = fabric.device
        settings = inversion_config(config, rounds, seed)
        inversion = Inversion(
            classifier.spec, classifier.class_names, settings, classifier=classifier
        )
        inversion.to(fabric.device)
        self._trainer = Trainer(fabric, inversion, classifier, default_objective(settings))
        self.done = 0

    def next(self, known: Known) -> Candidates:
        """One more round: every step's images, as far as they may become garbage.

        Early steps give what the classifier half believes, late ones what it fully does.

        Args:
            known: real images as the classifier sees them now.

        Raises:
            DivergedError: when the inversion's loss becomes NaN.
        """
        allowed = find_rule(self.config.exclude)(known)
        garbage = self.classifier.classes - 1
        kept, drawn, right = [], 0, 0
        with frozen(self.classifier, self.device):
            for _ in range(self.config.inversion_steps):
                _, sample = self._trainer.step(self.done)
                self.done += 1
                wanted = sample.condition.label != garbage
                prediction = Prediction(*(part.detach()[wanted] for part in sample.prediction))
                label = sample.condition.label[wanted]
                drawn += len(label)
                right += int((prediction.logits.argmax(1) == label).sum())
                images = to_bytes(sample.images[wanted])
                kept.append(images[allowed(prediction)])
        images = torch.cat(kept)
        return Candidates(images, drawn - len(images), right / max(1, drawn))

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` takes."""
        return {"done": self.done, "trainer": self._trainer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Be as the one that gave `state`."""
        self.done = state["done"]
        self._trainer.load_state_dict(state["trainer"])


def inversion_config(config: HardenConfig, rounds: int, seed: int) -> InvertConfig:
    """How the rounds invert: one long run, cut into `rounds` parts."""
    return InvertConfig(
        conditioning="vector",
        generator=GeneratorConfig(dropout=0.1, stretch=0.1),
        alpha=0.0,
        beta=config.inversion_beta,
        gamma=0.0,
        delta=0.0,
        terms=config.inversion_terms,
        steps=max(1, rounds * config.inversion_steps),
        batch=config.inversion_batch,
        lr=config.inversion_lr,
        stop_at=None,
        seed=seed,
    )

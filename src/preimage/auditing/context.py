"""What the parts of an audit work with."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preimage.auditing.budget import (
    inversion_seconds,
    predict_seconds,
    reconstruction_seconds,
)
from preimage.auditing.figures import MOST_CLASSES
from preimage.auditing.parts import LeftOutError
from preimage.classifier import Classifier, all_frozen
from preimage.commands import Audit
from preimage.config import PRESETS
from preimage.data import ImageSet
from preimage.data.overlap import digests
from preimage.drawing import balanced_labels
from preimage.errors import PreimageError
from preimage.files import read_json
from preimage.inversion import Inversion
from preimage.jobs.invert import GENERATOR_FILE
from preimage.jobs.report import Reporter
from preimage.loop import batch_room
from preimage.run import RunFolder
from preimage.runtime import make_fabric, stream
from preimage.types import Sample

_PLAN = "plan.json"
_SAMPLES = 2000


@dataclass(frozen=True)
class Data:
    """Real images in the classifier's shape; None where there are none."""

    name: str | None
    train: ImageSet | None
    """What it was trained on."""
    test: ImageSet | None
    """Of the same kind, but not trained on."""
    split: bool = True
    """Whether `test` is a part of its own; a source without splits gives all of its images, which
    the classifier may have been trained on."""
    unread: str | None = None
    """Why its training images could not be read; None where it has none, or they could."""

    @cached_property
    def test_digests(self) -> frozenset[bytes]:
        """Of the test images, see :func:`preimage.data.overlap.digests`."""
        return frozenset() if self.test is None else digests(self.test)


@dataclass
class Context:
    """One audit under way."""

    command: Audit
    classifier: Classifier
    evaluator: Classifier | None
    data: Data
    named: bool
    """Whether the classifier can be loaded again by the command's name for it."""
    folder: RunFolder
    report: Reporter
    patient: bool = False
    """Whether the inversion is made even where its fewest steps take longer than there is time."""

    def fixed(self, name: str, choose: Callable[[], Any]) -> Any:
        """What was chosen under `name` when this audit first came here; plain values only.

        A resumed audit must not measure and choose anew: its inner runs go on only under equal
        settings.
        """
        if name not in self.plan():
            # choosing may fix other things first
            value = choose()
            plan = {**self.plan(), name: value}
            self.folder.write(_PLAN, json.dumps(plan, indent=1).encode())
        return self.plan()[name]

    def plan(self) -> dict[str, Any]:
        """All that was chosen so far.

        Raises:
            PreimageError: when its file is damaged.
        """
        path = self.folder.path / _PLAN
        plan = read_json(path) if path.is_file() else {}
        if not isinstance(plan, dict):
            raise PreimageError(
                f"expected the audit's plan, found a damaged '{path}'; restore it, or start anew "
                "with --overwrite"
            )
        return plan

    def inner(self, name: str) -> Path:
        """Folder of an inner run."""
        return self.folder.path / name

    def at_work(self) -> AbstractContextManager[None]:
        """Both classifiers on the device that the audit is to run on, and back at the end."""
        return all_frozen(self.device, self.classifier, self.evaluator)

    @cached_property
    def device(self) -> torch.device:
        """That the audit is to run on."""
        return make_fabric(self.command.runtime).device

    @property
    def predict_seconds(self) -> float:
        """Seconds for the classifier's answer on one image."""

        def measure() -> float:
            with self.at_work():
                return predict_seconds(self.classifier, self.command.seed)

        return self._speed("predict", measure)

    @property
    def inversion_seconds(self) -> float:
        """Seconds for a step of the natural preset."""
        command = self.command
        return self._speed(
            "inversion",
            lambda: inversion_seconds(
                self.classifier, command.runtime, self.inversion_room, command.seed
            ),
        )

    @property
    def inversion_room(self) -> int:
        """The largest batch of inversion that there is memory for."""
        natural = PRESETS["natural"]

        def measure() -> int:
            room = batch_room(self.classifier, natural, self.command.runtime)
            return natural.batch if room is None else room

        return int(self.fixed("inversion room", measure))

    def reconstruction_seconds(self, images: int, enough: float) -> float:
        """Seconds for a step of reconstruction; at least `enough` where it is as slow as that."""
        command = self.command
        return self._speed(
            "reconstruction",
            lambda: reconstruction_seconds(
                self.classifier, command.runtime, images, command.seed, enough
            ),
        )

    def _speed(self, name: str, measure: Callable[[], float]) -> float:
        return float(self.fixed(f"seconds of {name}", measure))

    @cached_property
    def classes(self) -> list[int]:
        """Indices of the classes to show: all, or some that are spread evenly over them."""
        count = self.classifier.classes
        return torch.linspace(0, count - 1, min(count, MOST_CLASSES)).round().long().tolist()

    @cached_property
    def names(self) -> list[str]:
        """Names of :attr:`classes`."""
        return [self.classifier.class_names[k] for k in self.classes]

    @cached_property
    def inversion(self) -> Inversion:
        """The finished inversion.

        Raises:
            LeftOutError: where none was made.
        """
        path = self.inner("inversion") / GENERATOR_FILE
        if not path.is_file():
            raise LeftOutError("the inversion that this part looks at was not made")
        inversion = Inversion.load(path, self.classifier)
        inversion.to(self.device)
        return inversion

    @cached_property
    def sample(self) -> Sample:
        """Inversions of all classes in turn."""
        labels = balanced_labels(max(_SAMPLES, self.classifier.classes), self.classifier.classes)
        return self.inversion.sample(labels, seed=self.command.seed)

    def of_class(self, label: int, count: int) -> Sample:
        """`count` inversions of one class."""
        return self.inversion.sample(torch.full((count,), label), seed=1 + self.command.seed)


def some(images: ImageSet, most: int, seed: int) -> ImageSet:
    """At most so many of them, drawn at random."""
    order = torch.randperm(len(images), generator=stream(seed, "audit known"))
    return images.subset(order[:most])


def wilson(hits: float, count: float, z: float = 1.959964) -> tuple[float, float]:
    """Interval of a share (Wilson 1927), by default of 95 %.

    Args:
        hits: how many of `count` there were.
        count: 0 gives all of [0, 1].
        z: its half width in standard deviations.
    """
    if count == 0:
        return 0.0, 1.0
    share = hits / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    half /= 1 + z * z / count
    return max(0.0, centre - half), min(1.0, centre + half)


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Probability (N,) that the classifier gives to each one's own class."""
    return logits.softmax(1)[torch.arange(len(labels)), labels]

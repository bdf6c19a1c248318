"""Learn a generator of everything that a classifier puts in each class, and sample from it."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor, nn

from preimage.classifier import Classifier, frozen
from preimage.conditioning import make_scheme
from preimage.config import Augmentation, GeneratorConfig, InvertConfig
from preimage.diagnostics import Check
from preimage.drawing import at_once
from preimage.errors import PreimageError
from preimage.files import write_atomic
from preimage.generator import Noise, make_generator, plane_size
from preimage.runtime import channels_last, random_state, stream
from preimage.tensors import below, pack, understood, unpack
from preimage.types import Condition, ImageSpec, Prediction, Sample

FORMAT = "preimage-generator-2"
_CHUNK = 250


class Inversion:
    """Trained generators: they draw images that their classifier puts in a wanted class.

    `generator` is the one in training, or the last; `bank` holds those that were kept before it.
    All of them share the sampling evenly.

    Args:
        spec: shape of the images.
        class_names: one name per class.
        config: the settings that it was trained with.
        classifier: what was inverted; needed for :meth:`sample`, not for :meth:`images`.
        checks: the held-out checks made while training.
    """

    def __init__(
        self,
        spec: ImageSpec,
        class_names: tuple[str, ...],
        config: InvertConfig,
        *,
        classifier: Classifier | None = None,
        checks: tuple[Check, ...] = (),
    ):
        self.spec = spec
        self.class_names = class_names
        self.config = config
        self.classifier = classifier
        self.checks = checks
        self.scheme = make_scheme(
            config.conditioning, len(class_names), plane_size(spec), config.spread, config.margin
        )
        with random_state(config.seed):
            self.generator = make_generator(spec, self.scheme, config.generator)
        self.generator.to(memory_format=torch.channels_last)
        self.bank = nn.ModuleList()

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    def keep(self) -> None:
        """Put a copy of the generator as it is into the bank."""
        self.bank.append(copy.deepcopy(self.generator).eval().requires_grad_(False))

    def to(self, device: torch.device) -> None:
        """Move all generators."""
        self.generator.to(device)
        self.bank.to(device)

    def draw(self, labels: Tensor, random: torch.Generator) -> tuple[Noise, Condition]:
        """Everything that the generator needs for images of these labels (B,), on the CPU."""
        noise = self.generator.noise(len(labels), random)
        condition = self.scheme(labels, random)
        return noise._replace(member=torch.rand(len(labels), generator=random)), condition

    def images(self, labels: Tensor, seed: int = 0) -> Tensor:
        """Draw one image for each label.

        Dropout stays on, as the settings say. The same labels and seed give the same images,
        whatever was drawn before.

        Args:
            labels: (N,) class indices from 0 to K - 1.
            seed: names the draw.

        Returns:
            (N, C, H, W) in [0, 1], float32, on the CPU.

        Raises:
            PreimageError: for labels that are no row of class indices, or of classes that do not
                exist.
        """
        labels = _as_labels(labels)
        noise, condition = self.draw(labels, stream("sample", seed))
        return self._render(noise, condition)

    def sample(self, labels: Tensor, seed: int = 0) -> Sample:
        """Draw one image for each label, with what the classifier says of it.

        As :meth:`images`; the prediction is made in float32.

        Raises:
            PreimageError: as :meth:`images`, or where no classifier is known.
        """
        if self.classifier is None:
            raise PreimageError(
                "expected a classifier to judge the samples, found an inversion that was loaded "
                "without one; give it to Inversion.load, or call images() for the images alone"
            )
        labels = _as_labels(labels)
        noise, condition = self.draw(labels, stream("sample", seed))
        images = self._render(noise, condition)
        return Sample(images, condition, predict(self.classifier, images))

    def _check_fits(self, classifier: Classifier, path: str | Path) -> None:
        wanted, found = (f"{it.classes} classes and images {it.spec}" for it in (self, classifier))
        if wanted != found:
            raise PreimageError(
                f"expected a classifier of {wanted} for '{path}', found one of {found}; give the "
                "one that was inverted"
            )

    @torch.no_grad()
    def _render(self, noise: Noise, condition: Condition) -> Tensor:
        members = [*self.bank, self.generator]
        turn = (noise.member * len(members)).long().clamp_max(len(members) - 1)
        images = torch.empty(len(turn), *self.spec.shape)
        for i, member in enumerate(members):
            for rows in (turn == i).nonzero().flatten().split(at_once(self.spec, _CHUNK)):
                images[rows] = drawn_by(member, noise.rows(rows), condition.rows(rows)).cpu()
        return images

    def to_bytes(self) -> bytes:
        """A safetensors file: the generator's state and, in the header, all else."""
        header = {
            "format": FORMAT,
            "spec": json.dumps(self.spec.shape),
            "class_names": json.dumps(self.class_names),
            "config": json.dumps(asdict(self.config)),
            "checks": json.dumps([asdict(check) for check in self.checks]),
        }
        return pack(
            {name: tensor.cpu().contiguous() for name, tensor in self.state_dict().items()}, header
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors of every generator, by names that :meth:`load_state_dict` knows."""
        bank = self.bank.state_dict(prefix="bank.")
        return {**self.generator.state_dict(prefix="generator."), **bank}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state_dict` gave; the bank becomes as large as it was."""
        count = len({name.split(".")[1] for name in state if name.startswith("bank.")})
        self.bank = nn.ModuleList()
        for _ in range(count):
            self.keep()
        self.bank.load_state_dict(below("bank.", state))
        self.generator.load_state_dict(below("generator.", state))

    def save(self, path: str | Path) -> None:
        """Write the inversion to one safetensors file, whole or not at all.

        Raises:
            DiskError: when the file cannot be written.
        """
        write_atomic(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: str | Path, classifier: Classifier | None = None) -> Inversion:
        """Read what :meth:`save` wrote.

        Args:
            path: the safetensors file.
            classifier: the classifier that was inverted, for :meth:`sample`.

        Raises:
            PreimageError: when the file is missing, damaged, of another version, or made for
                another number of classes or another image shape than the classifier's.
        """
        kind = ("generator", "check the path, or run the inversion again")
        header, state = unpack(Path(path), FORMAT, *kind)
        with understood(Path(path), *kind):
            inversion = cls(
                ImageSpec(*json.loads(header["spec"])),
                tuple(json.loads(header["class_names"])),
                config_from_dict(json.loads(header["config"])),
                classifier=classifier,
                checks=tuple(Check(**values) for values in json.loads(header["checks"])),
            )
            inversion.load_state_dict(state)
        if classifier is not None:
            inversion._check_fits(classifier, path)
        inversion.generator.eval()
        return inversion


def _as_labels(labels: Any) -> Tensor:
    """Class indices (N,) of any whole type, as int64 on the CPU."""
    try:
        found = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _no_labels(repr(labels)) from error
    whole = not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
    if found.ndim != 1 or not (whole or len(found) == 0):
        raise _no_labels(f"{tuple(found.shape)} of {found.dtype}".replace("torch.", ""))
    return found.long().cpu()


def _no_labels(found: str) -> PreimageError:
    return PreimageError(
        f"expected labels as a row of whole class indices, such as [0, 1, 2], found {found[:80]}; "
        "give one for each image"
    )


@torch.no_grad()
def predict(classifier: Classifier, images: Tensor) -> Prediction:
    """The classifier's float32 answer on images (N, C, H, W), in evaluation mode, on the CPU."""
    batch = at_once(classifier.spec, _CHUNK)
    with frozen(classifier):
        device = classifier.mean.device
        parts = [classifier(channels_last(part.to(device))) for part in images.split(batch)]
    return Prediction(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def drawn_by(generator: nn.Module, noise: Noise, condition: Condition) -> Tensor:
    """Images (N, C, H, W) in [0, 1], on the generator's device; its statistics stay as they are."""
    training, device = generator.training, next(generator.parameters()).device
    generator.eval()
    try:
        images: Tensor = generator(*move_data_to_device((noise, condition), device))
        return images
    finally:
        generator.train(training)


def config_from_dict(values: dict[str, Any]) -> InvertConfig:
    """Settings from what JSON made of them."""
    values = dict(values)
    values["generator"] = GeneratorConfig(**values["generator"])
    values["view"] = Augmentation(**values["view"])
    values["terms"] = tuple(values["terms"])
    return InvertConfig(**values)

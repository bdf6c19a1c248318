"""Student accuracy: what a fresh network learns of the real task from inversions alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from preimage.augment import augment, cutmix, mixup
from preimage.config import Augmentation, Precision, Runtime
from preimage.drawing import (
    MOST_BYTES,
    Ask,
    Draw,
    Progress,
    balanced_labels,
    check_logits,
    check_real,
    chunks,
    draw_chunks,
    home,
    to_bytes,
)
from preimage.errors import PreimageError
from preimage.runtime import channels_last, make_fabric, random_state, stream
from preimage.training import channel_statistics
from preimage.types import ImageSpec
from preimage.zoo.architectures import build, family, names

if TYPE_CHECKING:
    from preimage.data import ImageSet


@dataclass(frozen=True)
class StudentConfig:
    """How the student is built and trained."""

    arch: str = "auto"
    """Reference architecture; auto is resnet, or cnn where the target itself is a resnet."""
    width: int | None = None
    """Channels of the first stage; None takes the architecture's own."""
    images: int = 20_000
    """Inversions to learn from; fewer where they would take more than 1 GiB as bytes."""
    steps: int = 1200
    batch: int = 128
    lr: float = 8e-3
    """Peak learning rate of AdamW's one-cycle schedule."""
    weight_decay: float = 0.05
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(flip=True, shift=2))
    """Of every image, before it is mixed. The target is asked about what comes of it, so it need
    not keep the class."""
    cutmix: float = 0.5
    """Share of the images of a batch that get a rectangle of another one."""
    mixup: bool = True
    """Average every image with another one of the batch."""


def student_accuracy(
    draw: Draw,
    classifier: Ask,
    real: ImageSet,
    *,
    classes: int,
    config: StudentConfig | None = None,
    seed: int = 0,
    precision: Precision = "auto",
    on_progress: Progress | None = None,
) -> float:
    """Train a fresh small network on inversions only and test it on real images.

    The loss is the squared distance of the logits, less their mean over the classes, which no
    answer hangs on (Ba and Caruana 2014, "Do deep nets really need to be deep?", section 3): it
    tells how classes rank below the first as well, where a softmax of a sure answer tells nothing.
    The target is asked again about every image exactly as the student sees it, rounded to bytes,
    mirrored, shifted, patched and averaged (Beyer et al. 2022, "Knowledge distillation: A good
    teacher is patient and consistent", section 3): keeping the first answer would teach the student
    that a shift changes nothing, which is not the target's own knowledge.
    Mixed images lie between the classes, where inversions of one class each say little.

    Args:
        draw: gives fresh samples; called in chunks under seeds that follow from `seed`.
        classifier: the target. It is asked in whatever mode it is in: freeze it before.
        real: test images and labels of the same shape and classes.
        classes: number of classes K.
        config: architecture and schedule.
        seed: the same seed gives the same accuracy on the same CPU.
        precision: of the student's training and the target's answers.
        on_progress: told of "student images" and "student steps".

    Returns:
        Share of `real` that the student classifies correctly, in [0, 1].

    Raises:
        PreimageError: for a student of the target's own architecture, settings below 1, or samples
            that cannot be used, such as NaN images.
    """
    config = config or StudentConfig()
    check_student(config, classifier)
    check_real(real, classes)
    report = on_progress or (lambda *_: None)
    images, drawn_on = _collect(draw, classes, config, seed, report, real.spec)
    device = home(classifier, drawn_on)
    fabric = make_fabric(Runtime(accelerator=cast(Any, device.type), precision=precision))
    # weights, and dropout where the architecture has any, draw from the global stream
    first = stream(seed, "student", "weights").initial_seed()
    with random_state(first, device), torch.enable_grad():
        mean, std = channel_statistics(images)
        arch = student_architecture(config, classifier)
        network = _Normalised(build(arch, real.spec, classes, config.width), mean, std)
        network.to(device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.lr, total_steps=config.steps, cycle_momentum=False
        )
        model, wrapped = fabric.setup(network, optimizer, move_to_device=False)
        batches = _batches(images, config, seed, device)
        for step, batch in enumerate(batches):
            with torch.no_grad(), fabric.autocast():
                wanted = classifier(batch).logits.float()
            check_logits(wanted, len(batch), classes, "the target")
            loss = logit_distance(model(batch).float(), wanted)
            optimizer.zero_grad()
            fabric.backward(loss)
            wrapped.step()
            schedule.step()
            report("student steps", step + 1, config.steps)
        return _test(model, real, device)


def logit_distance(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference of two answers (B, K), each less its mean over the classes."""
    difference = logits - wanted
    return (difference - difference.mean(1, keepdim=True)).square().mean()


def check_student(config: StudentConfig, target: object) -> None:
    """Refuse settings that no student can be trained with, before anything is drawn.

    Args:
        config: the student's settings.
        target: its attribute ``arch``, where it has one, is what the student must not be.

    Raises:
        PreimageError: for an unknown architecture, the target's own, or numbers that are too small.
    """
    if config.arch not in ("auto", *names()):
        raise PreimageError(
            f"expected a student's architecture out of auto, {', '.join(names())}, found "
            f"'{config.arch}'; choose one of those"
        )
    arch = getattr(target, "arch", None)
    if arch is not None and family(config.arch) == family(arch):
        raise PreimageError(
            f"expected a student of another architecture than the target's, found '{config.arch}' "
            "for both; choose another one or auto"
        )
    for name, least in (("images", 2), ("steps", 1), ("batch", 2)):  # batch norm needs two
        if getattr(config, name) < least:
            raise PreimageError(
                f"expected at least {least} for the student's {name}, found "
                f"{getattr(config, name)}; raise it"
            )
    if not 0 <= config.cutmix <= 1:
        raise PreimageError(
            f"expected a share from 0 to 1 for the student's cutmix, found {config.cutmix}; choose "
            "one between them"
        )


def student_architecture(config: StudentConfig, target: object) -> str:
    """Name of the architecture that the student of `target` will have."""
    if config.arch != "auto":
        return config.arch
    return "cnn" if family(getattr(target, "arch", None) or "") == "resnet" else "resnet"


class _Normalised(nn.Module):
    """A network behind the normalisation of the images that it is trained on."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor):
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.network((images - self.mean) / self.std))


def _collect(
    draw: Draw, classes: int, config: StudentConfig, seed: int, report: Progress, spec: ImageSpec
) -> tuple[Tensor, torch.device]:
    """The inversions to learn from, (N, C, H, W) uint8, and the device they came from."""
    pixels = spec.channels * spec.height * spec.width
    count = min(config.images, max(2, MOST_BYTES // pixels))
    images = torch.empty(count, *spec.shape, dtype=torch.uint8)
    device = torch.device("cpu")
    labels = balanced_labels(count, classes)
    for rows, sample in draw_chunks(draw, labels, classes, spec, seed, "student"):
        images[rows] = to_bytes(sample.images)
        device = sample.images.device
        report("student images", rows.stop, count)
    return images, device


def _batches(
    images: Tensor, config: StudentConfig, seed: int, device: torch.device
) -> Iterator[Tensor]:
    """``config.steps`` batches (B, C, H, W) in [0, 1]: shuffled passes, changed and mixed."""
    random = stream(seed, "student", "batches")
    batch = min(config.batch, len(images))
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(config.steps):
        if len(order) < batch:
            order = torch.cat([order, torch.randperm(len(images), generator=random)])
        index, order = order[:batch], order[batch:]
        floats = images[index].to(device).float() / 255
        floats = augment(floats, config.augmentation, random)
        if config.cutmix:
            floats = cutmix(floats, config.cutmix, random)
        yield channels_last(mixup(floats, random) if config.mixup else floats)


@torch.no_grad()
def _test(model: nn.Module, real: ImageSet, device: torch.device) -> float:
    model.eval()
    answers = [
        model(channels_last(real.floats(index).to(device))).argmax(1).cpu()
        for index in chunks(len(real))
    ]
    return float((torch.cat(answers) == real.labels).double().mean())

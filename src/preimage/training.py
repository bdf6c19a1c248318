"""Train a reference classifier: what `preimage train` does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from preimage.augment import augment
from preimage.checkpoint import Checkpointer
from preimage.classifier import Classifier, frozen
from preimage.config import Runtime, TrainConfig
from preimage.data import ImageSet
from preimage.drawing import at_once
from preimage.errors import DivergedError, PreimageError
from preimage.fitting import check_private, prepare, private
from preimage.limits import check_train
from preimage.runtime import (
    channels_last,
    load_scaler,
    make_fabric,
    precision_name,
    random_state,
    reseed,
    scaler_state,
    seed_of,
    stream,
)
from preimage.zoo.architectures import build

_SAVES = 100
"""States to save at most, in trainings of very many epochs."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to."""

    epoch: int
    loss: float
    train_accuracy: float
    seconds: float


@torch.enable_grad()
def train(
    data: ImageSet,
    config: TrainConfig,
    *,
    runtime: Runtime | None = None,
    checkpoint: Checkpointer | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Classifier:
    """Train on every image of `data` and return the classifier of the last epoch.

    Nothing is selected by any held-out figure, so a test set stays a test set.

    Args:
        data: training images, at least two classes.
        config: architecture, schedule, augmentation and seed.
        runtime: device and precision; one device.
        checkpoint: when given, resumes from its state and saves after every epoch, or after every
            hundredth of very many.
        on_epoch: called after each such epoch that is trained now, before its state is saved.

    Raises:
        PreimageError: for an unknown architecture, a problem that is too small, or settings that
            are out of range or do not fit the architecture.
        DivergedError: when the loss becomes NaN; the last epoch's state stays saved.
    """
    check_train(config)
    runtime = one_device(runtime or Runtime())
    check_private(config.fitting, precision_name(runtime))
    fabric = make_fabric(runtime)
    with random_state(config.seed, fabric.device):
        training = _Training(data, config)
        training.run(fabric, checkpoint, on_epoch)
    return Classifier(
        training.network.cpu().eval(),
        data.spec,
        mean=training.mean.flatten().tolist(),
        std=training.std.flatten().tolist(),
        class_names=data.class_names,
        name=data.name,
        arch=config.arch,
    )


class _Training:
    """A network, and what it learns with."""

    def __init__(self, data: ImageSet, config: TrainConfig):
        self.data, self.config = data, config
        self.mean, self.std = channel_statistics(data.images)
        self.network = build(config.arch, data.spec, data.classes, config.width)
        self.network.to(memory_format=torch.channels_last)
        prepare(self.network, config.fitting)
        steps = config.epochs * batch_count(len(data), config.batch)
        self.optimizer, self.schedule = make_optimizer(self.network, config, steps)

    def run(
        self,
        fabric: Any,
        checkpoint: Checkpointer | None,
        on_epoch: Callable[[Epoch], None] | None,
    ) -> None:
        config = self.config
        often = max(1, config.epochs // _SAVES)
        stop = config.fitting.stop_loss
        batch = min(config.batch, len(self.data))
        with private(self.network, self.optimizer, config.fitting, batch) as learnt:
            model, optimizer = fabric.setup(*learnt)
            # not before: an optimiser's state stays on the device that it was loaded for
            first = self._restore(fabric, checkpoint)
            for epoch in range(first, config.epochs):
                done = self._epoch(fabric, model, optimizer, epoch)
                ended = stop is not None and done.loss <= stop
                if not (ended or done.epoch == config.epochs) and done.epoch % often:
                    continue
                if on_epoch:
                    on_epoch(done)
                if checkpoint:
                    checkpoint.save_state(self._state(fabric, done.epoch, ended))
                if ended:
                    break

    def _epoch(self, fabric: Any, model: nn.Module, optimizer: Any, epoch: int) -> Epoch:
        config, start = self.config, time.perf_counter()
        # dropout draws from the global stream: tie it to the epoch, so a resumed run agrees
        reseed(seed_of(config.seed, "dropout", epoch), fabric.device)
        smoothing = config.fitting.label_smoothing
        model.train()
        total, right, seen = 0.0, 0, 0
        mean, std = fabric.to_device((self.mean, self.std))
        for images, labels in shuffled_batches(self.data, config, epoch, fabric.device):
            logits = model(channels_last((images - mean) / std))
            loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            self.schedule.step()
            total += loss.item() * len(labels)
            right += int((logits.argmax(1) == labels).sum())
            seen += len(labels)
        if not math.isfinite(total):
            raise DivergedError(
                f"expected a finite loss, found {total / seen} in epoch {epoch + 1}; "
                "lower the learning rate with --lr, the last good epoch stays saved"
            )
        return Epoch(epoch + 1, total / seen, right / seen, time.perf_counter() - start)

    def _state(self, fabric: Any, epochs: int, ended: bool) -> dict[str, Any]:
        return {
            "step": epochs,
            "ended": ended,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": scaler_state(fabric),
        }

    def _restore(self, fabric: Any, checkpoint: Checkpointer | None) -> int:
        """Load the last state and return the epoch to go on with."""
        state = checkpoint.load_state() if checkpoint else None
        if state is None:
            return 0
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        load_scaler(fabric, state.get("scaler", {}))
        return self.config.epochs if state["ended"] else int(state["step"])


def one_device(runtime: Runtime, work: str = "training") -> Runtime:
    """The same settings.

    Args:
        runtime: the settings.
        work: what is to be done, for the error's sentence.

    Raises:
        PreimageError: for more than one device, which the work has no use for.
    """
    if runtime.devices != 1:
        raise PreimageError(
            f"expected one device for {work}, found --devices {runtime.devices}; leave it at 1"
        )
    return runtime


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation in [0, 1], each (C, 1, 1), of uint8 images (N, C, H, W)."""
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(c.reshape(-1), minlength=256) for c in images.unbind(1)])
    share = counts.double() / counts.sum(1, keepdim=True)
    mean = share @ values
    variance = share @ values.square() - mean.square()
    deviation = variance.clamp_min(1e-6).sqrt()
    return mean.float().view(-1, 1, 1), deviation.float().view(-1, 1, 1)


def accuracy_on(classifier: Classifier, data: ImageSet, batch: int = 500) -> float:
    """Share of `data` that `classifier`, in evaluation mode, puts in the right class.

    It may have a class more than the data, as a garbage class: an image sent there counts as wrong.
    """
    accuracy = multiclass_accuracy(
        predictions(classifier, data, batch),
        data.labels,
        num_classes=classifier.classes,
        average="micro",
    )
    return float(accuracy)


@torch.no_grad()
def predictions(classifier: Classifier, data: ImageSet, batch: int = 500) -> Tensor:
    """Classes (N,) int64 that `classifier`, in evaluation mode, puts the images in, on the CPU."""
    with frozen(classifier):
        answers = [
            classifier(channels_last(data.floats(index).to(classifier.mean.device))).logits
            for index in torch.arange(len(data)).split(at_once(data.spec, batch))
        ]
    return torch.cat(answers).argmax(1).cpu()


def shuffled_batches(
    data: ImageSet, config: TrainConfig, epoch: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches, augmented on `device`; a last short one only if there is no other."""
    random = stream(config.seed, "batches", epoch)
    order = torch.randperm(len(data), generator=random)
    batch = min(config.batch, len(data))
    for start in range(0, batch_count(len(data), config.batch) * batch, batch):
        index = order[start : start + batch]
        images = augment(data.floats(index, device), config.augmentation, random)
        yield images, data.labels[index].to(device)


def batch_count(images: int, batch: int) -> int:
    """Batches in a pass over so many images."""
    return max(1, images // batch)


def make_optimizer(
    network: nn.Module, config: TrainConfig, steps: int, gentle: float = 1.0
) -> tuple[Any, Any]:
    """The optimiser that the settings ask for, and its one-cycle schedule over `steps`.

    Args:
        network: what is to learn.
        config: the settings.
        steps: of the schedule.
        gentle: of the usual peak learning rate, where the settings name none.
    """
    kind = config.optimizer
    if kind == "auto":
        kind = "sgd" if _has_batch_norm(network) else "adamw"
    peak = config.lr or gentle * (0.2 if kind == "sgd" else 1e-3) * config.batch / 256
    groups = _parameter_groups(network, config.weight_decay)
    optimizer: torch.optim.Optimizer
    if kind == "sgd":
        optimizer = torch.optim.SGD(groups, lr=peak, momentum=0.9, nesterov=True)
    else:
        optimizer = torch.optim.AdamW(groups, lr=peak)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        # with four steps its rise would take none, which it divides by
        optimizer,
        peak,
        total_steps=max(5, steps),
        pct_start=0.25,
        cycle_momentum=False,
    )
    return optimizer, schedule


def _has_batch_norm(network: nn.Module) -> bool:
    """Whether it has a batch norm that learns; a frozen part stays in evaluation mode."""
    modules = network.train().modules()
    return any(isinstance(module, nn.BatchNorm2d) and module.training for module in modules)


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels only, as is usual."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]

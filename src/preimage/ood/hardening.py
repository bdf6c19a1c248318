"""Train a classifier with a garbage class that grows by inversion after every epoch."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from preimage.augment import augment
from preimage.checkpoint import Checkpointer
from preimage.classifier import Classifier, frozen
from preimage.config import Fitting, HardenConfig, Runtime, TrainConfig
from preimage.data import ImageSet
from preimage.drawing import at_once
from preimage.errors import DivergedError, PreimageError
from preimage.limits import check_harden, check_train
from preimage.ood.exclusion import Known
from preimage.ood.guard import AccuracyGuard
from preimage.ood.heads import GARBAGE, with_garbage
from preimage.ood.pool import GarbagePool
from preimage.ood.rounds import Candidates, Rounds
from preimage.ood.splitting import Split, split_up
from preimage.runtime import channels_last, make_fabric, random_state, reseed, seed_of, stream
from preimage.training import (
    accuracy_on,
    batch_count,
    channel_statistics,
    make_optimizer,
    one_device,
    shuffled_batches,
)
from preimage.zoo.architectures import build

_FEW_ROUNDS = 2
_GENTLE = 0.1
"""Of the usual learning rate, for weights that are trained already."""
_MOST_WEIGHT = 0.5
"""Of garbage beside all classes together."""
_KNOWN_IMAGES = 4000


@dataclass(frozen=True)
class HardenEpoch:
    """What one epoch came to."""

    epoch: int
    loss: float
    train_accuracy: float
    garbage_recall: float
    """Share of the epoch's garbage that went to garbage."""
    valid_accuracy: float
    """On held-out images of the classes; one that is sent to garbage counts as wrong."""
    verdict: str
    """What the accuracy guard said: good, back or stop."""
    added: int
    """Inversions that joined garbage after the epoch."""
    excluded: int
    """Inversions that were kept out of it."""
    accepted: float | None
    """Share of the round's inversions that the classifier took; None where no round was made."""
    garbage: int
    """Images in the pool."""
    seconds: float


@dataclass(frozen=True)
class Hardened:
    """What :func:`harden` made."""

    classifier: Classifier
    """Of n + 1 classes; the last is garbage."""
    pool: GarbagePool
    split: Split
    """The real images: trained on, held out, and to choose a threshold and a reference by."""
    epochs: tuple[HardenEpoch, ...]

    @property
    def kept(self) -> HardenEpoch:
        """The epoch that the classifier is of: the last one that the guard found good."""
        return [epoch for epoch in self.epochs if epoch.verdict == "good"][-1]


@torch.enable_grad()
def harden(
    data: ImageSet,
    config: HardenConfig | None = None,
    training: TrainConfig | None = None,
    *,
    start: Classifier | None = None,
    heldout: ImageSet | None = None,
    runtime: Runtime | None = None,
    checkpoint: Checkpointer | None = None,
    on_epoch: Callable[[HardenEpoch], None] | None = None,
) -> Hardened:
    """Train on real images and on garbage, which is noise first and inversions later.

    Application 2 of "Network Inversion and Its Applications" (arXiv 2411.17777): after every
    epoch the classifier as it then is gets inverted, and the inversions join the garbage class. No
    real outlier is ever seen.

    Args:
        data: training images of the n classes.
        config: garbage, rounds, exclusion and guard.
        training: architecture (without `start`), schedule, augmentation and seed.
        start: a trained classifier to go on with; None trains one from scratch. It is not changed.
        heldout: images of the same classes that `start` was not trained on, for the guard and the
            threshold; None holds some of `data` out. Those that are in `data` as well are left out.
        runtime: device and precision; one device.
        checkpoint: when given, resumes from its state and saves after every epoch.
        on_epoch: called after each epoch that is trained now, before its state is saved.

    Raises:
        PreimageError: for settings, data or a classifier that do not fit.
        DivergedError: when a loss becomes NaN; the last epoch's state stays saved.
    """
    config, training = config or HardenConfig(), training or TrainConfig()
    check_harden(config)
    check_train(training)
    if training.fitting != Fitting():
        raise PreimageError(
            "expected a training without settings of its own for fitting, found some; hardening "
            "has none, so leave TrainConfig.fitting as it is"
        )
    fabric = make_fabric(one_device(runtime or Runtime()))
    split = split_up(data, heldout, config.valid, training, seen=start is not None)
    with random_state(training.seed, fabric.device):
        classifier = _with_garbage(split.fit, training, start, config)
        loop = _Loop(fabric, classifier, split, config, training, trained=start is not None)
        if start is not None and heldout is not None:
            # of images that it was trained on its accuracy would say nothing
            with frozen(start, fabric.device):
                loop.guard.expect(accuracy_on(start, split.validation), loop.learnt())
        epochs = loop.run(checkpoint, on_epoch)
    classifier.to("cpu").eval()
    return Hardened(classifier, loop.pool, split, epochs)


def _with_garbage(
    data: ImageSet, training: TrainConfig, start: Classifier | None, config: HardenConfig
) -> Classifier:
    if start is not None:
        if (start.classes, start.spec) != (data.classes, data.spec):
            raise PreimageError(
                f"expected images {start.spec} of {start.classes} classes, as the classifier "
                f"takes, found {data.spec} of {data.classes}; give the data it was trained on"
            )
        return with_garbage(start, config.head)
    mean, std = channel_statistics(data.images)
    network = build(training.arch, data.spec, data.classes + 1, training.width)
    return Classifier(
        network.to(memory_format=torch.channels_last),
        data.spec,
        mean=mean.flatten().tolist(),
        std=std.flatten().tolist(),
        class_names=(*data.class_names, GARBAGE),
        name=f"{data.name} with {GARBAGE}",
        arch=training.arch,
    )


class _Loop:
    """One hardening under way."""

    def __init__(
        self,
        fabric: Fabric,
        classifier: Classifier,
        split: Split,
        config: HardenConfig,
        training: TrainConfig,
        *,
        trained: bool,
    ):
        self.fabric, self.classifier = fabric, classifier.to(fabric.device)
        self.fit, self.validation = split.fit, split.validation
        self.config, self.training = config, training
        steps = training.epochs * batch_count(len(self.fit), training.batch)
        gentle = _GENTLE if trained and config.head == "extend" else 1.0
        optimizer, self._schedule = make_optimizer(classifier.network, training, steps, gentle)
        self.model, self.optimizer = fabric.setup(classifier.network, optimizer)
        seed = training.seed
        self.pool = GarbagePool(self.fit.spec, config.garbage, config.noise, seed)
        self.planned = self._planned(trained)
        self.rounds = Rounds(fabric, classifier, self.planned, config, seed)
        self.guard = AccuracyGuard(config.margin, config.patience)
        self.epochs: list[HardenEpoch] = []

    def _planned(self, trained: bool) -> int:
        """Rounds: one after each epoch, but none after the last, which nothing would learn of.

        A classifier that is trained already gets few: its inversions look ever more like its
        classes, and as garbage they cost accuracy.
        """
        most = self.training.epochs - 1
        if self.config.rounds is None:
            return min(most, _FEW_ROUNDS) if trained else most
        return min(self.config.rounds, most)

    def run(
        self,
        checkpoint: Checkpointer | None,
        on_epoch: Callable[[HardenEpoch], None] | None,
    ) -> tuple[HardenEpoch, ...]:
        self._restore(checkpoint)
        while len(self.epochs) < self.training.epochs and not self._stopped():
            # dropout draws from the global stream: tie it to the epoch, so a resumed run agrees
            seed = seed_of(self.training.seed, "dropout", len(self.epochs))
            reseed(seed, self.fabric.device)
            self.epochs.append(self._epoch(len(self.epochs)))
            if on_epoch:
                on_epoch(self.epochs[-1])
            if checkpoint:
                checkpoint.save_state(self._state())
        self._go_back()
        if all(epoch.verdict != "good" for epoch in self.epochs):
            raise PreimageError(
                f"expected an epoch that keeps the held-out accuracy within {self.config.margin:g} "
                f"of the classifier's own {self.guard.best:.2%}, found none in {len(self.epochs)}; "
                "lower --lr, or raise --margin"
            )
        return tuple(self.epochs)

    def _stopped(self) -> bool:
        return bool(self.epochs) and self.epochs[-1].verdict == "stop"

    def _epoch(self, number: int) -> HardenEpoch:
        start = time.perf_counter()
        loss, accuracy, recall = self._train(number)
        valid = accuracy_on(self.classifier, self.validation)
        verdict = self.guard.judge(valid, self.learnt())
        found = None
        if verdict != "good":
            self._go_back()
            self._drop_what_spoiled()
        elif number < self.planned:
            found = self.rounds.next(self._known(number))
        return HardenEpoch(
            epoch=number + 1,
            loss=loss,
            train_accuracy=accuracy,
            garbage_recall=recall,
            valid_accuracy=valid,
            verdict=verdict,
            added=self._add(found),
            excluded=found.excluded if found else 0,
            accepted=found.accepted if found else None,
            garbage=len(self.pool),
            seconds=time.perf_counter() - start,
        )

    def _drop_what_spoiled(self) -> None:
        """Drop the round that joined after the last good epoch: no good one has learnt of it."""
        if self.epochs and self.epochs[-1].added:
            self.pool.drop_round(self.pool.last_round)

    def _add(self, found: Candidates | None) -> int:
        if found is None:
            return 0
        return self.pool.add(found.images, self.config.gain, diverse=self.config.diverse)

    def _train(self, epoch: int) -> tuple[float, float, float]:
        """One pass over the real images: loss, accuracy on them, recall of garbage."""
        self.model.train()
        garbage = self.classifier.classes - 1
        total, steps = 0.0, 0
        right, seen = torch.zeros(2), torch.zeros(2)  # of real images, of garbage
        for images, labels in self._batches(epoch):
            logits = self.model(images)
            loss = F.cross_entropy(logits, labels, weight=self._weights(labels))
            self.optimizer.zero_grad()
            self.fabric.backward(loss)
            self.optimizer.step()
            self._schedule.step()
            total, steps = total + loss.item(), steps + 1
            kind = (labels == garbage).long().cpu()
            hit = (logits.argmax(1) == labels).float().cpu()
            right.index_add_(0, kind, hit)
            seen.index_add_(0, kind, torch.ones_like(hit))
        if total != total or total == float("inf"):
            raise DivergedError(
                f"expected a finite loss, found {total / steps} in epoch {epoch + 1}; "
                "lower the learning rate with --lr, the last good epoch stays saved"
            )
        accuracy, recall = (right / seen.clamp_min(1)).tolist()
        return total / steps, accuracy, recall

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Real images with garbage behind them, augmented alike: no trace tells them apart."""
        random = stream(self.training.seed, "garbage batches", epoch)
        mean, std = self.classifier.mean, self.classifier.std
        device = self.fabric.device
        for real, labels in shuffled_batches(self.fit, self.training, epoch, device):
            count = max(1, round(self.config.share * len(real)))
            drawn = self.pool.draw(count, random).to(device)
            garbage = augment(drawn, self.training.augmentation, random)
            none = torch.full((count,), self.classifier.classes - 1, device=device)
            images = torch.cat([real, garbage])
            yield channels_last((images - mean) / std), torch.cat([labels, none])

    def _weights(self, labels: Tensor) -> Tensor:
        """Class weights (n + 1,): garbage counts as `weight` classes, however much there is."""
        classes = self.classifier.classes - 1
        weights = torch.ones(classes + 1, device=labels.device)
        garbage = int((labels == classes).sum())
        real = len(labels) - garbage
        share = min(self.config.weight / classes, _MOST_WEIGHT)
        weights[-1] = share * real / max(1, garbage)
        return weights

    @torch.no_grad()
    def _known(self, epoch: int) -> Known:
        """Some of the training images as the classifier sees them now."""
        random = stream(self.training.seed, "known", epoch)
        rows = torch.randperm(len(self.fit), generator=random)[:_KNOWN_IMAGES]
        with frozen(self.classifier), self.fabric.autocast():
            features = [
                self.classifier(
                    channels_last(self.fabric.to_device(self.fit.floats(part)))
                ).features
                for part in rows.split(at_once(self.fit.spec, 500))
            ]
        return Known(torch.cat(features), self.fit.labels[rows].to(features[0].device))

    def learnt(self) -> dict[str, Any]:
        """What the epochs have taught, to go back to."""
        return {
            "network": self.classifier.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _go_back(self) -> None:
        """To the last good epoch; the schedule goes on."""
        good = self.guard.good
        if good is None:
            return
        self.classifier.network.load_state_dict(good["network"])
        rates = [group["lr"] for group in self.optimizer.param_groups]
        # an optimiser keeps the tensors that it is given, and would write over the good ones
        self.optimizer.load_state_dict(copy.deepcopy(good["optimizer"]))
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _state(self) -> dict[str, Any]:
        return {
            "step": len(self.epochs),
            **self.learnt(),
            "schedule": self._schedule.state_dict(),
            "pool": self.pool.state_dict(),
            "rounds": self.rounds.state_dict(),
            "guard": self.guard.state_dict(),
            "epochs": [vars(epoch) for epoch in self.epochs],
        }

    def _restore(self, checkpoint: Checkpointer | None) -> None:
        state = checkpoint.load_state() if checkpoint else None
        if state is None:
            return
        self.classifier.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.pool.load_state_dict(state["pool"])
        self.rounds.load_state_dict(state["rounds"])
        self.guard.load_state_dict(state["guard"])
        self.epochs = [HardenEpoch(**values) for values in state["epochs"]]

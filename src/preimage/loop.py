"""The loop that inverts a classifier."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from preimage.augment import apply_changes, draw_changes
from preimage.checkpoint import Checkpointer
from preimage.checks import check_gradient
from preimage.classifier import Classifier, frozen
from preimage.config import PRESETS, InvertConfig, Runtime
from preimage.diagnostics import Check, class_diversity, gradient_shares
from preimage.distributed import gather, share_batch_norm, smallest
from preimage.drawing import at_once
from preimage.errors import DivergedError, PreimageError
from preimage.inversion import Inversion
from preimage.limits import check_invert
from preimage.losses import Objective, paper_terms, parse_term
from preimage.room import check_room, free_bytes, most_images, step_bytes
from preimage.runtime import channels_last, load_scaler, make_fabric, scaler_state, stream
from preimage.types import ImageSpec, Layer, Prediction, Sample

_CHECK_IMAGES, _FEWEST_CHECKED, _SAME = 500, 96, 8
_WARM_UP = 50
_NO_PRIOR = (
    "the classifier shows no batch norm, so nothing ties the inversions to its training data: the "
    "term batch-norm is 0, and separation acts on pixels alone"
)
_NO_CLASS = (
    "no term asks for images of the wanted class, so the generator need not make any; add "
    "sureness=1 to --terms, or raise --beta"
)


@dataclass(frozen=True)
class Progress:
    """Where an inversion stands."""

    step: int
    steps: int
    loss: float
    check: Check | None
    """The held-out check made at this step, if one was."""


def default_objective(config: InvertConfig) -> Objective:
    """The paper's four terms with the settings' weights, then the further terms."""
    paper = paper_terms(config.alpha, config.beta, config.gamma, config.delta)
    return Objective([*paper, *map(parse_term, config.terms)])


@torch.enable_grad()
def invert(
    model: Classifier | nn.Module,
    config: InvertConfig | None = None,
    *,
    image: ImageSpec | Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    feature_layer: str | None = None,
    objective: Objective | None = None,
    runtime: Runtime | None = None,
    checkpoint: Checkpointer | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> Inversion:
    """Learn a generator of everything that `model` puts in each class.

    The method of "Network Inversion and Its Applications" (arXiv 2411.17777). The model is not
    changed: its weights, buffers, training flags and hooks are afterwards as they were.

    Args:
        model: a :class:`Classifier`, or any module from images (B, C, H, W) to logits (B, K).
        config: settings; None takes the natural preset.
        image: (channels, height, width) of one image, for a plain module.
        mean: per-channel mean that the plain module's input is centred by, in [0, 1] units.
        std: per-channel standard deviation, likewise.
        feature_layer: for a plain module, name of the layer whose input is the features.
        objective: the loss; None takes the settings' terms and weights.
        runtime: devices and precision; with several devices every process returns the same.
        checkpoint: when given, resumes from its state and saves at every held-out check; used on
            the first process only.
        on_step: called after every step, on the first process only, before its state is saved.

    Returns:
        The trained inversion, with `model` attached as its classifier.

    Raises:
        PreimageError: for a model or settings that do not fit.
        DivergedError: when the loss becomes NaN or infinite; the last checkpoint stays.
    """
    config = config or PRESETS["natural"]
    classifier = _as_classifier(model, image, mean, std, feature_layer)
    fabric = make_fabric(runtime or Runtime())
    fabric.launch()
    _check_settings(config, fabric.world_size)
    doubts = []
    if objective is None:
        objective = default_objective(config)
        doubts += [] if objective.asks_for_class else [_NO_CLASS]
    if objective.reads_layers and not classifier.batch_norms():
        doubts.append(_NO_PRIOR)
    for doubt in doubts if fabric.is_global_zero else ():
        warnings.warn(doubt, stacklevel=2)
    inversion = Inversion(classifier.spec, classifier.class_names, config, classifier=classifier)
    with frozen(classifier, fabric.device):
        check_gradient(classifier, fabric.autocast)
        Trainer(fabric, inversion, classifier, objective, checkpoint, on_step).run()
    share_batch_norm(inversion.generator, 1)
    inversion.to(torch.device("cpu"))
    inversion.generator.eval()
    return inversion


class Trainer:
    """One inversion under way; :func:`invert` is its usual door.

    Args:
        fabric: launched.
        inversion: what to train.
        classifier: what to invert, frozen and on the fabric's device.
        objective: the loss.
        checkpoint: where to go on from and to save to.
        on_step: as in :func:`invert`.
    """

    def __init__(
        self,
        fabric: Fabric,
        inversion: Inversion,
        classifier: Classifier,
        objective: Objective,
        checkpoint: Checkpointer | None = None,
        on_step: Callable[[Progress], None] | None = None,
    ):
        self.fabric, self.inversion, self.classifier = fabric, inversion, classifier
        self.objective, self.checkpoint, self.on_step = objective, checkpoint, on_step
        self.config = inversion.config
        self.starts = member_starts(self.config.steps, self.config.members)
        generator = inversion.generator
        share_batch_norm(generator, fabric.world_size)
        self._adam = torch.optim.Adam(
            generator.parameters(), lr=self.config.lr, betas=(0.5, 0.99), fused=True
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self._adam, self._rate)
        self.model, self.optimizer = fabric.setup(generator, self._adam)

    def _rate(self, step: int) -> float:
        """For each member a linear warm-up, then half a cosine down to a hundredth."""
        begin = max(start for start in self.starts if start <= step)
        end = min((start for start in self.starts if start > step), default=self.config.steps)
        steps = end - begin
        done = min(step - begin, steps)
        warm = min(1.0, (done + 1) / min(_WARM_UP if begin == 0 else _WARM_UP // 5, steps))
        return warm * (0.505 + 0.495 * math.cos(math.pi * done / steps))

    def run(self) -> None:
        """Train until the steps are done or the held-out check is good enough."""
        self._check_room()
        step = self._restore()
        while step < self.config.steps and not self._enough():
            if step in self.starts[1:]:
                self._next_member(step)
            loss, sample = self.step(step)
            step += 1
            due = step % self.config.check_every == 0 or step == self.config.steps
            if due and not self._finite():
                raise _diverged("NaN or infinite weights of the generator", step)
            check = self._check(step, loss, sample) if due else None
            if self.on_step and self.fabric.is_global_zero:
                self.on_step(Progress(step, self.config.steps, loss, check))
            if due:
                self._save(step)

    def _check_room(self) -> None:
        """Decide alike on all processes: one that refused alone would leave the others waiting."""
        world, device = self.fabric.world_size, self.fabric.device
        free = free_bytes(device)
        if world > 1:
            # processes on CPUs have one memory between them
            own = math.inf if free is None else free / (world if device.type == "cpu" else 1)
            least = smallest(self.fabric, own)
            free = least if math.isfinite(least) else None
        per_image, share = step_bytes(self.forward), self.config.batch // world
        check_room(per_image, share, self.inversion.spec, free, "--batch", world)

    def forward(self, images: int) -> object:
        """Draw and judge so many images as a training step does; nothing learns from it."""
        labels = torch.arange(images) % self.inversion.classes
        inputs = self.inversion.draw(labels, stream(self.config.seed, "room"))
        noise, condition = self.fabric.to_device(inputs)
        # the generator's own running statistics must not hear of this
        generator = copy.deepcopy(self.inversion.generator).train()
        with self.fabric.autocast():
            drawn = generator(noise, condition)
            prediction, layers = self._see(channels_last(drawn))
        return drawn, prediction, layers, [self._of_others(part.values) for part in layers]

    def _of_others(self, values: Tensor) -> Tensor:
        """As much as a step keeps of a layer (B, ...) on all the other processes, which it gathers.

        In single precision, with a square of it as terms take.
        """
        others = self.fabric.world_size - 1
        shape = (others * len(values), *values.shape[1:])
        return torch.empty(shape, device=values.device, requires_grad=True).square()

    def _next_member(self, step: int) -> None:
        """Keep the generator, and send it to look elsewhere.

        The later layers know how to draw what the classifier takes; a fresh first layer makes
        them draw something else. Its optimiser state is of the old one's and goes.
        """
        self.inversion.keep()
        fresh = self.inversion.generator.restart(stream(self.config.seed, "member", step))
        for parameter in fresh:
            self._adam.state.pop(parameter, None)

    def step(self, step: int) -> tuple[float, Sample]:
        """One optimiser step on the batch that belongs to `step`.

        Returns:
            The objective's value and the whole batch's sample.
        """
        self.model.train()
        sample = self._draw(step)
        loss = self.objective(sample)
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        value = loss.item()
        if not math.isfinite(value):
            raise _diverged(f"a loss of {value}", step + 1)
        self.optimizer.step()
        self.schedule.step()
        return value, sample

    def _draw(self, step: int) -> Sample:
        """This step's batch: all processes draw the whole, each renders and judges its share."""
        random = stream(self.config.seed, "step", step)
        labels = step_labels(self.inversion.classes, self.config.batch, random)
        inputs = self.inversion.draw(labels, random)
        share = self.config.batch // self.fabric.world_size
        mine = slice(self.fabric.global_rank * share, (self.fabric.global_rank + 1) * share)
        noise, condition = (part.rows(mine) for part in inputs)
        noise, condition = self.fabric.to_device((noise, condition))
        images = self.model(noise, condition)
        view = self.config.view
        changes = draw_changes(self.config.batch, view, random).rows(mine)
        seen = channels_last(apply_changes(images, view, changes))
        with self.fabric.autocast():
            sample = Sample(images, condition, *self._see(seen))
        return gather(self.fabric, sample)

    def _see(self, images: Tensor) -> tuple[Prediction, tuple[Layer, ...]]:
        """The classifier's answer, with its layers when a term wants them."""
        if self.objective.reads_layers:
            return self.classifier.observe(images)
        return self.classifier(images), ()

    def _see_alone(self, images: Tensor) -> tuple[Prediction, tuple[Layer, ...]]:
        """As a training step sees them, of this process alone."""
        with self.fabric.autocast():
            return self._see(images)

    def _part(self, sample: Sample) -> Sample:
        """As many of the whole batch's images as a process has room for, the same on all."""
        mine = slice(self.config.batch // self.fabric.world_size)
        return sample._replace(images=sample.images[mine], condition=sample.condition.rows(mine))

    def _check(self, step: int, loss: float, training: Sample) -> Check:
        """Judge fresh samples, drawn from numbers that no training step uses."""
        labels = held_out_labels(self.inversion.classes, self.inversion.spec)
        images, probability = self._judged(labels)
        gradient, shares = gradient_shares(self.objective, self._see_alone, self._part(training))
        wanted = labels.to(probability.device)
        diversity, limit = class_diversity(images, labels)
        check = Check(
            step=step,
            accuracy=float((probability.argmax(1) == wanted).float().mean()),
            confidence=float(probability.gather(1, wanted[:, None]).mean()),
            diversity=diversity,
            diversity_limit=limit,
            loss=loss,
            gradient=gradient,
            shares=shares,
        )
        # whether to stop follows from it, and processes that judge by other chips may differ
        check = self.fabric.broadcast(check)
        self.inversion.checks = (*self.inversion.checks, check)
        return check

    @torch.no_grad()
    def _judged(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Fresh images (N, C, H, W) on the CPU, and the classifier's probabilities (N, K)."""
        generator = self.inversion.generator
        noise, condition = self.inversion.draw(labels, stream(self.config.seed, "check"))
        images, probability = [], []
        generator.eval()
        # no more at once than a training step has, so that what fits there fits here
        for rows in torch.arange(len(labels)).split(self.config.batch):
            part = self.fabric.to_device((noise.rows(rows), condition.rows(rows)))
            with self.fabric.autocast():
                drawn = generator(*part)
                probability.append(self.classifier(drawn).logits.softmax(1))
            images.append(drawn.cpu())
        generator.train()
        return torch.cat(images), torch.cat(probability)

    def _finite(self) -> bool:
        """Whether the generator is sound: a gradient may be NaN where the loss is not."""
        state = self.inversion.generator.state_dict().values()
        return all(bool(torch.isfinite(tensor).all()) for tensor in state)

    def _enough(self) -> bool:
        """Whether the last member has been good enough for as many checks as are asked for."""
        wanted, begin = self.config.stop_at, self.starts[-1]
        if wanted is None:
            return False
        last = self.inversion.checks[-self.config.patience :]
        good = (check.accuracy >= wanted and check.step > begin for check in last)
        return len(last) == self.config.patience and all(good)

    def _save(self, step: int) -> None:
        if self.checkpoint is None or not self.fabric.is_global_zero:
            return
        self.checkpoint.save_state({"step": step, **self.state_dict()})

    def _restore(self) -> int:
        """Load the first process's last state everywhere; return the steps it has behind it."""
        first = self.checkpoint is not None and self.fabric.is_global_zero
        state = self.fabric.broadcast(self.checkpoint.load_state() if first else None)  # type: ignore[union-attr]
        if state is None:
            return 0
        self.load_state_dict(state)
        return int(state["step"])

    def state_dict(self) -> dict[str, Any]:
        """Everything that another trainer of the same settings needs to go on."""
        return {
            "inversion": self.inversion.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": scaler_state(self.fabric),
            "checks": [asdict(check) for check in self.inversion.checks],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Be as the trainer that gave `state`."""
        self.inversion.load_state_dict(state["inversion"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        load_scaler(self.fabric, state.get("scaler", {}))
        self.inversion.checks = tuple(Check(**values) for values in state["checks"])


def step_labels(classes: int, batch: int, random: torch.Generator) -> Tensor:
    """The classes to draw in a step, (batch,) in random order.

    All of them, as often as one another or once more, where that is at least twice. What keeps the
    images of a class apart needs two of it: where there are more classes, half as many as images
    are drawn anew in each step, and each comes twice.
    """
    if 2 * classes <= batch:
        return torch.randperm(batch, generator=random) % classes
    chosen = torch.randperm(classes, generator=random)[: batch // 2]
    return chosen[torch.randperm(batch, generator=random) % len(chosen)]


def held_out_labels(classes: int, spec: ImageSpec) -> Tensor:
    """The classes to check, (N,): several images of some, and of as many as there is room for one.

    A check must see whether the images of a class are alike, also where there are more classes
    than images to check. Of large images there are fewer, so that it does not take longer than the
    steps between.
    """
    images = max(_FEWEST_CHECKED, at_once(spec, _CHECK_IMAGES))
    if _SAME * classes <= images:
        return torch.arange(images) % classes
    several = torch.linspace(0, classes - 1, images // (2 * _SAME)).long()
    single = torch.linspace(0, classes - 1, min(classes, images)).long()
    return torch.cat([several.repeat_interleave(_SAME), single])


def batch_room(classifier: Classifier, config: InvertConfig, runtime: Runtime) -> int | None:
    """The largest batch that there is memory for; None where the machine does not tell.

    Raises:
        PreimageError: for a classifier that could not be inverted.
    """
    fabric = make_fabric(runtime)
    inversion = Inversion(classifier.spec, classifier.class_names, config, classifier=classifier)
    with frozen(classifier, fabric.device):
        check_gradient(classifier, fabric.autocast)
        trainer = Trainer(fabric, inversion, classifier, default_objective(config))
        return most_images(step_bytes(trainer.forward), free_bytes(fabric.device))


def member_starts(steps: int, members: int) -> list[int]:
    """The step at which each member begins: the first has twice the time of the others."""
    return [0, *(round(steps * (i + 1) / (members + 1)) for i in range(1, members))]


def _diverged(what: str, step: int) -> DivergedError:
    return DivergedError(
        f"expected a finite loss and finite weights, found {what} at step {step}; lower --lr or "
        "the weights of the loss, the last good checkpoint stays as it was"
    )


def _as_classifier(
    model: Classifier | nn.Module,
    image: ImageSpec | Sequence[int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    feature_layer: str | None,
) -> Classifier:
    if isinstance(model, Classifier):
        settings = {"image": image, "mean": mean, "std": std, "feature_layer": feature_layer}
        given = [name for name, value in settings.items() if value is not None]
        if given:
            raise PreimageError(
                f"expected no {given[0]} beside a Classifier, which has its own, found one; wrap "
                "the network anew with it, or leave it out"
            )
        return model
    if not isinstance(model, nn.Module):
        raise PreimageError(
            f"expected a Classifier or a torch module, found {str(model)[:100]!r}; load one by its "
            "name with load_classifier"
        )
    if image is None:
        raise PreimageError(
            "expected the image shape of a plain module, found none; pass "
            "image=(channels, height, width)"
        )
    return Classifier(model, ImageSpec.of(image), mean=mean, std=std, feature_layer=feature_layer)


def _check_settings(config: InvertConfig, processes: int) -> None:
    check_invert(config)
    if config.batch < 2 * processes or config.batch % processes:
        raise PreimageError(
            f"expected a batch that splits evenly over {processes} process(es) with at least 2 "
            f"images each, found {config.batch}; change --batch"
        )

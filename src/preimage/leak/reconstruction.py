"""Look for the images that a classifier was trained on, from the classifier alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from preimage.checkpoint import Checkpointer
from preimage.checks import check_gradient
from preimage.classifier import Classifier, float32_weights, frozen
from preimage.conditioning import make_scheme
from preimage.config import ReconstructConfig, Runtime
from preimage.drawing import balanced_labels
from preimage.errors import DivergedError, PreimageError
from preimage.generator import plane_size
from preimage.inversion import predict
from preimage.leak.balance import Balance
from preimage.leak.carriers import make_carrier
from preimage.leak.first_layer import first_layer
from preimage.leak.objective import Objective, weights_of
from preimage.leak.terms import smooth_gates
from preimage.leak.turns import Turns
from preimage.leak.unmixing import unmix
from preimage.limits import SAYS, check_reconstruct
from preimage.room import check_room, free_bytes, most_images, step_bytes
from preimage.runtime import make_fabric, stream
from preimage.training import one_device
from preimage.types import Condition

LOOK_EVERY = 25
"""Steps between two looks at the terms' gradients."""
SAVE_EVERY = 100

_NEARLY_ALL = 0.9


@dataclass(frozen=True)
class ReconstructProgress:
    """Where a reconstruction stands."""

    step: int
    steps: int
    values: dict[str, float]
    """Each term's value when it was last due, without its weight; none before the first step."""
    what: Literal["steps", "unmixing"] = "steps"
    """Unmixing the first layer's weights comes before the steps of the search."""


@dataclass(frozen=True)
class Reconstruction:
    """What was found."""

    images: Tensor
    """(N, C, H, W) in [0, 1]."""
    labels: Tensor
    """(N,) int64: of what came out of the weights the classifier's answer, of the rest the classes
    asked for."""
    unmixed: int = 0
    """How many came out of the first layer's weights; they are the first ones."""


@torch.enable_grad()
def reconstruct(
    classifier: Classifier,
    config: ReconstructConfig | None = None,
    *,
    runtime: Runtime | None = None,
    checkpoint: Checkpointer | None = None,
    on_step: Callable[[ReconstructProgress], None] | None = None,
) -> Reconstruction:
    """Find images that obey what training images obey.

    Application 3 of "Network Inversion and Its Applications" (arXiv 2411.17777), with the
    stationarity of Haim et al. 2022 as one more term and weights that balance themselves. What
    comes out of a dense first layer's weights (:mod:`preimage.leak.unmixing`) need not be looked
    for: it stays as it is, and has its part in explaining the weights, unless it is still mixed. A
    mixture of training images explains the weights as well as these do, and would leave nothing
    to look for.

    Args:
        classifier: it is afterwards as it was.
        config: settings; the defaults serve every architecture.
        runtime: device; one, in float32, since second derivatives are taken.
        checkpoint: when given, resumes from its state, and saves what came out of the weights and
            then every 100 steps.
        on_step: called after every look at the gradients, and now and then while unmixing.

    Raises:
        PreimageError: for settings that do not fit, or a classifier without a gradient.
        DivergedError: when the loss becomes NaN; the last checkpoint stays.
    """
    config = config or ReconstructConfig()
    check_reconstruct(config)
    fabric = make_fabric(one_device(runtime or Runtime(), "a reconstruction"))
    with frozen(classifier, fabric.device), _differentiable(classifier, config):
        check_gradient(classifier)
        _check_weights(classifier, config)
        state = checkpoint.load_state() if checkpoint else None
        known = (
            _Known(state["known"], state.get("mixed", False))  # older states had a part for all
            if state
            else _known(classifier, config, fabric.device, on_step)
        )
        if checkpoint and not state:
            checkpoint.save_state({"step": 0, **_state_of(known)})
        if len(known.images) == config.images:
            return Reconstruction(known.images, _answers(classifier, known.images), config.images)
        _check_room(classifier, config, fabric.device)
        search = _Search(classifier, config, fabric.device, known)
        search.run(state, checkpoint, on_step)
        with torch.no_grad():
            found = search.carrier().clamp(0, 1).float().cpu()
        labels = torch.cat([_answers(classifier, known.images), search.wanted])
    return Reconstruction(torch.cat([known.images, found]), labels, len(known.images))


def _of_weights(config: ReconstructConfig) -> list[str]:
    """Terms in use that take gradients with respect to the weights."""
    return [name for name in ("stationarity", "gradient") if getattr(config, name) > 0]


def _check_weights(classifier: Classifier, config: ReconstructConfig) -> None:
    wanted = _of_weights(config)
    if wanted and not weights_of(classifier):
        raise PreimageError(
            f"expected a classifier with parameters that its answer hangs on for "
            f"{' and '.join(wanted)}, found none (buffers are not parameters); leave these terms "
            f"out with --{' 0 --'.join(wanted)} 0"
        )


def images_room(classifier: Classifier, config: ReconstructConfig, runtime: Runtime) -> int | None:
    """How many images there is memory to look for; None where the machine does not tell."""
    device = make_fabric(one_device(runtime)).device
    with frozen(classifier, device), _differentiable(classifier, config):
        return most_images(_image_bytes(classifier, config, device), free_bytes(device))


def _check_room(classifier: Classifier, config: ReconstructConfig, device: torch.device) -> None:
    per_image = _image_bytes(classifier, config, device)
    check_room(per_image, config.images, classifier.spec, free_bytes(device), "--images")


def step_seconds(
    classifier: Classifier,
    config: ReconstructConfig,
    runtime: Runtime,
    tries: int,
    enough: float = math.inf,
) -> float:
    """Seconds that a step of the search takes here, its part of the looks at gradients included.

    Args:
        classifier: it is afterwards as it was.
        config: settings; nothing is taken from the weights.
        runtime: device.
        tries: steps to measure, at least 1; more where terms take turns, until each has had its.
        enough: when they have taken so many seconds, no other round of turns is tried, and no other
            step when it is clear that a step takes at least as long.

    Raises:
        PreimageError: where there is no memory for a step.
        DivergedError: where the classifier answers NaN.
    """
    device = make_fabric(one_device(runtime)).device
    with frozen(classifier, device), _differentiable(classifier, config):
        _check_room(classifier, config, device)
        search = _Search(classifier, config, device, _nothing(classifier))
        per_round = search.turns.round
        took = []
        for step in range(1 + math.ceil(tries / per_round) * per_round):
            start = time.perf_counter()
            search.step(step)
            took.append(time.perf_counter() - start)
            turned = step % per_round == 0 and sum(took) >= enough
            if step and (turned or sum(took[1:]) >= per_round * enough):
                break
    first, usual = took[0], sum(took[1:]) / len(took[1:])
    return usual + max(0.0, first - usual) / LOOK_EVERY


def _image_bytes(classifier: Classifier, config: ReconstructConfig, device: torch.device) -> float:
    """About what a step takes for every image."""

    def forward(images: int) -> object:
        few = replace(config, images=images)
        search = _Search(classifier, few, device, _nothing(classifier))
        return search.values(0, search.images(), search.balance.priorities)

    return step_bytes(forward)


class _Known(NamedTuple):
    """What came out of the first layer's weights."""

    images: Tensor
    """(n, C, H, W), on the CPU."""
    mixed: bool
    """Whether they are still mixtures of several training images."""


def _state_of(known: _Known) -> dict[str, Any]:
    return {"known": known.images, "mixed": known.mixed}


def _nothing(classifier: Classifier) -> _Known:
    return _Known(torch.empty(0, *classifier.spec.shape), mixed=False)


def _known(
    classifier: Classifier,
    config: ReconstructConfig,
    device: torch.device,
    on_step: Callable[[ReconstructProgress], None] | None,
) -> _Known:
    """What comes out of the first layer's weights.

    Where nearly all that was asked for comes out, and there are directions left, these give the
    rest: a search for one more image takes as long as for all. Where nine tenths of what comes out
    are more than was asked for, only what is certain counts; with many training images most may
    still be mixed, and where less than half of those asked for are certain, half are looked for.
    """
    layer = first_layer(classifier) if config.start == "weights" else None
    if layer is None:
        return _nothing(classifier)

    def tell(step: int, steps: int) -> None:
        if on_step:
            on_step(ReconstructProgress(step, steps, {}, "unmixing"))

    try:
        # what comes apart is kept in float64, which mps has not
        there = torch.device("cpu") if device.type == "mps" else device
        found = unmix(layer, classifier.spec, seed=config.seed, device=there, on_step=tell)
    except RuntimeError as error:  # no memory for a decomposition, or none that converges
        raise PreimageError(
            "expected a dense first layer that can be taken apart, found: "
            f"{str(error).splitlines()[0]}; look for all images with --start noise"
        ) from error
    half, many = config.images // 2, found.possible * _NEARLY_ALL > config.images
    if many and found.certain < half:
        return _Known(found.images[:half], mixed=True)
    count = found.certain if many else found.possible
    nearly_all = count >= _NEARLY_ALL * config.images
    return _Known(found.images[: config.images if nearly_all else count], mixed=False)


@contextmanager
def _differentiable(classifier: Classifier, config: ReconstructConfig) -> Iterator[None]:
    """Second derivatives: weights in the graph and in float32, smooth activations, attention that
    has them.
    """
    wanted = bool(_of_weights(config))
    for parameter in classifier.parameters():
        # put back by `frozen`; whole numbers, as indices, have no gradient
        parameter.requires_grad_(wanted and parameter.is_floating_point())
    with (
        float32_weights(classifier),
        smooth_gates(classifier.network, config.sharpness),
        sdpa_kernel(SDPBackend.MATH),
    ):
        yield


class _Search:
    """One reconstruction under way."""

    def __init__(
        self,
        classifier: Classifier,
        config: ReconstructConfig,
        device: torch.device,
        known: _Known,
    ):
        self.config, self.known = config, known
        classes, spec, seed = classifier.classes, classifier.spec, config.seed
        self.wanted = _spread(config.images - len(known.images), classes)
        """(n,) int64, the class of each image that is looked for."""
        self.given = known.images[: 0 if known.mixed else None].to(device)
        labels = torch.cat([_answers(classifier, self.given), self.wanted])
        scheme = make_scheme("vector", classes, plane_size(spec), 4.0, 2.0)
        condition = scheme(labels, stream(seed, "reconstruct"))
        condition = Condition(*(None if p is None else p.to(device) for p in condition))  # type: ignore[arg-type]
        self.objective = Objective(classifier, condition, labels.to(device), config)
        self.carrier = make_carrier(config.carrier, spec, self.wanted, classes, seed).to(device)
        self.multipliers = nn.Parameter(torch.zeros(len(labels), device=device))
        self.balance = Balance(priorities(config))
        self.turns = Turns(self.balance.priorities)
        self.optimizer = torch.optim.Adam(
            [
                {"params": list(self.carrier.parameters()), "lr": _rate(config)},
                {"params": [self.multipliers], "lr": 0.02},
            ],
            betas=(0.9, 0.99),
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._decay)

    def _decay(self, step: int) -> float:
        """Half a cosine down to a fiftieth."""
        return 0.51 + 0.49 * math.cos(math.pi * min(1.0, step / self.config.steps))

    def images(self) -> Tensor:
        """All images that are to explain the weights, (N, C, H, W), the given ones first."""
        return torch.cat([self.given, self.carrier()])

    def run(
        self,
        state: dict[str, Any] | None,
        checkpoint: Checkpointer | None,
        on_step: Callable[[ReconstructProgress], None] | None,
    ) -> None:
        """Search until the steps are over, from `state` on."""
        step = self._restore(state) if state and state["step"] else 0
        values: dict[str, float] = {}
        while step < self.config.steps:
            values |= self.step(step)
            step += 1
            if on_step and (step % LOOK_EVERY == 0 or step == self.config.steps):
                on_step(ReconstructProgress(step, self.config.steps, dict(values)))
            if checkpoint and (step % SAVE_EVERY == 0 or step == self.config.steps):
                checkpoint.save_state(self._state(step))

    def values(self, step: int, images: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """The named terms of all images, each a scalar with its graph."""
        return self.objective.values(names, images, self.multipliers, step)

    def step(self, step: int) -> dict[str, float]:
        """One step of the optimiser, after a look at the gradients where one is due.

        Returns:
            The values of the terms that were due.
        """
        looking = step % LOOK_EVERY == 0
        times = self.turns.every() if looking else self.turns.due(step)
        images = self.images()
        values = self.values(step, images, times)
        if looking:
            self.balance.look(values, images)
        loss = self.balance.total(values, times)
        if not math.isfinite(loss.item()):
            raise DivergedError(
                f"expected a finite loss, found {loss.item()} at step {step + 1}; lower --lr, the "
                "last checkpoint stays as it was"
            )
        learnt = [*self.carrier.parameters(), self.multipliers]
        gradients = torch.autograd.grad(loss, learnt, allow_unused=True)
        for parameter, gradient in zip(learnt, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.schedule.step()
        return {name: value.item() for name, value in values.items()}

    def _state(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            **_state_of(self.known),
            "carrier": self.carrier.state_dict(),
            "multipliers": self.multipliers.detach(),
            "balance": self.balance.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def _restore(self, state: dict[str, Any]) -> int:
        self.carrier.load_state_dict(state["carrier"])
        self.multipliers.data.copy_(state["multipliers"])
        self.balance.load_state_dict(state["balance"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        return int(state["step"])


def _answers(classifier: Classifier, images: Tensor) -> Tensor:
    """Classes (N,) that the classifier gives to images (N, C, H, W), which may be none."""
    if not len(images):
        return torch.empty(0, dtype=torch.int64)
    return predict(classifier, images).logits.argmax(1)


def priorities(config: ReconstructConfig) -> dict[str, float]:
    """Each term's priority by name."""
    return {name: getattr(config, name) for name in SAYS}


def _spread(count: int, classes: int) -> Tensor:
    """The class to look for with each image, (count,) in order: as evenly over all as can be."""
    if count < classes:
        return torch.linspace(0, classes - 1, count).long()
    return balanced_labels(count, classes).sort().values


def _rate(config: ReconstructConfig) -> float:
    """Pixels may move by some hundredths a step, a generator's weights by less."""
    return config.lr or (0.03 if config.carrier == "direct" else 2e-3)

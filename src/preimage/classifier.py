"""An adapter round any image classifier: [0, 1] images in, logits and features out.

The adapter owns the classifier's normalisation, finds its penultimate features and can freeze it.
It never changes a weight or a buffer and leaves no hook behind, not even after an exception.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from preimage.checks import check_answer, check_weights, error_line, runs
from preimage.errors import PreimageError
from preimage.types import ImageSpec, Layer, Prediction
from preimage.zoo.architectures import check_problem


@runtime_checkable
class GivesFeatures(Protocol):
    """A network that returns its penultimate features itself, so that no hook is needed."""

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and features (B, ...) of normalised images (B, C, H, W)."""


class Classifier(nn.Module):
    """A trained network with its input normalisation, image shape and class names.

    Args:
        network: any module that maps images (B, C, H, W) to logits (B, K). It is used in place,
            not copied. Of one that torch.compile made, in which no hook runs, the network that it
            was made of.
        spec: shape of one image.
        mean: per-channel mean in [0, 1] units that the network's input was centred by; None for
            a network that takes [0, 1] images.
        std: per-channel standard deviation, likewise.
        feature_layer: dotted name of the module whose *input* is the feature vector; None finds
            the last linear layer that runs.
        class_names: one name per class; None names them by number.
        name: what to call the classifier in reports.
        arch: name of its architecture where known; the student never shares it.

    Raises:
        PreimageError: for weights that are NaN or have no values yet, a wrong normalisation, an
            output that is not (B, K), not finite or of probabilities, fewer than two classes,
            images below 8 pixels, or no feature layer to be found.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        spec: ImageSpec,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        feature_layer: str | None = None,
        class_names: Sequence[str] | None = None,
        name: str = "classifier",
        arch: str | None = None,
    ):
        super().__init__()
        check_problem(spec, classes=2)  # the true number shows in the first answer
        network = getattr(network, "_orig_mod", network)
        check_weights(network)
        self.network = network
        self.spec = spec
        self.name = name
        self.arch = arch
        self.factory: tuple[str, object] | None = None
        """The user's function that built it, under its ``package.module:name``; see `sources`."""
        self.register_buffer("mean", _per_channel(mean, spec, "mean", 0.0), persistent=False)
        self.register_buffer("std", _per_channel(std, spec, "std", 1.0), persistent=False)
        if not bool((self.std > 0).all()):
            raise PreimageError(
                f"expected a std above 0 for every channel, found {std}; check --std"
            )
        self._feature_layer = feature_layer
        self._number = _number(network)
        # before freezing, which compares every buffer with its copy: both must be on one device
        self.to(_device(network))
        with frozen(self), torch.no_grad():
            answer = self._probe()
        self.classes = answer.logits.shape[1]
        self.feature_size = answer.features.shape[1]
        check_problem(spec, self.classes)
        self.class_names = _names(class_names, self.classes)

    def forward(self, images: Tensor) -> Prediction:
        """Classify images (B, C, H, W) in [0, 1]; logits and features come in float32."""
        inputs = self._inputs(images)
        if isinstance(self.network, GivesFeatures):
            logits, features = self.network.logits_and_features(inputs)
        else:
            logits, features = self._hooked(inputs)
        if not isinstance(logits, Tensor):
            raise PreimageError(
                f"expected a tensor of logits (B, K), found {type(logits).__name__}; wrap the "
                "network so that it returns the class scores alone"
            )
        return Prediction(logits.float(), features.flatten(1).float())

    @property
    def feature_layer(self) -> str | None:
        """Name of the module whose input is the features; None where the network gives them."""
        return self._feature_layer

    def batch_norms(self) -> list[_BatchNorm]:
        """The network's batch norms that keep running statistics; none in an exported program."""
        return [
            module
            for module in self.network.modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        ]

    def observe(self, images: Tensor) -> tuple[Prediction, tuple[Layer, ...]]:
        """Classify images, and tell what enters the batch norms on the way.

        Args:
            images: (B, C, H, W) in [0, 1].

        Returns:
            The prediction, and for each batch norm that keeps running statistics its input and
            these, in the order of their running. None of them where the network has no such
            layer, or hides it as an exported program does.
        """
        layers: list[Layer] = []

        def remember(norm: nn.Module, *given: Any) -> None:
            layers.append(_layer(cast(_BatchNorm, norm), first_argument(*given)))

        handles = [
            norm.register_forward_pre_hook(remember, with_kwargs=True)
            for norm in self.batch_norms()
        ]
        try:
            return self(images), tuple(layers)
        finally:
            for handle in handles:
                handle.remove()

    def _inputs(self, images: Tensor) -> Tensor:
        """Images as the network wants them: normalised, and in its own numbers."""
        return ((images - self.mean) / self.std).to(self._number)

    def _hooked(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []

        def remember(_: nn.Module, *given: Any) -> None:
            seen[:] = [first_argument(*given)]

        layer = self.network.get_submodule(self._feature_layer or "")
        handle = layer.register_forward_pre_hook(remember, with_kwargs=True)
        try:
            logits = self.network(inputs)
        finally:
            handle.remove()
        if not seen:
            raise PreimageError(
                f"expected the layer '{self._feature_layer}' to run in every forward pass, found "
                "that it did not; name another one as the feature layer"
            )
        return logits, seen[0]

    def _probe(self) -> Prediction:
        """Ask for two images, to learn K and D and to meet a misfit here rather than later."""
        images = torch.rand(2, *self.spec.shape, generator=torch.Generator().manual_seed(0))
        images = images.to(_device(self.network))
        try:
            if self._feature_layer is None and not isinstance(self.network, GivesFeatures):
                self._feature_layer = _last_linear(self.network, self._inputs(images))
            elif self._feature_layer is not None:
                self.network.get_submodule(self._feature_layer)
            answer = self(images)
        except PreimageError:
            raise
        except AttributeError as error:
            raise PreimageError(
                f"expected a classifier that runs on images {self.spec}, found: "
                f"{error_line(error)}; check the feature layer's name and the classifier's code"
            ) from error
        except Exception as error:
            raise PreimageError(
                f"expected a classifier that runs on 2 images of {self.spec}, found: "
                f"{error_line(error)}; check the image size and channels (--image)"
            ) from error
        check_answer(answer)
        return answer


@contextmanager
def frozen(classifier: Classifier, device: torch.device | None = None) -> Iterator[Classifier]:
    """Evaluation mode without gradients for the weights, on `device`, all put back at the end.

    Training flags, `requires_grad`, the device and every buffer are as before afterwards, also
    for a network that changes its own buffers in evaluation mode.
    """
    modes = {module: module.training for module in classifier.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in classifier.parameters()}
    before = _device(classifier)
    buffers = {name: buffer.clone() for name, buffer in classifier.named_buffers()}
    try:
        classifier.eval().requires_grad_(False)
        if device is not None:
            classifier.to(device)
        yield classifier
    finally:
        if device is not None:
            classifier.to(before)
        for module, training in modes.items():
            module.training = training
        for parameter, requires in wanted.items():
            parameter.requires_grad_(requires)
        _put_back(classifier, buffers)


def _put_back(module: nn.Module, buffers: dict[str, Tensor]) -> None:
    """Give buffers that the network changed their former values; caches that it made stay."""
    alike = {}
    for name, buffer in module.named_buffers():
        before = buffers.get(name)
        if before is None or buffer.is_meta:  # a cache, or without values
            continue
        if buffer.shape != before.shape:
            owner, _, own = name.rpartition(".")
            setattr(module.get_submodule(owner), own, before)
        else:
            alike[buffer] = before
    for buffer in _changed(alike):
        buffer.copy_(alike[buffer])


def _changed(before: dict[Tensor, Tensor]) -> list[Tensor]:
    """Those that differ from what they were: a GPU is waited for once, not once for each."""
    if not before:
        return []
    first = next(iter(before)).device
    apart = [(now.nan_to_num() != was.nan_to_num()).any().to(first) for now, was in before.items()]
    flags = torch.stack(apart).tolist()
    return [now for now, is_apart in zip(before, flags, strict=True) if is_apart]


@contextmanager
def float32_weights(classifier: Classifier) -> Iterator[None]:
    """Weights and buffers of half precision as float32 meanwhile, their values the same.

    What the network holds in other numbers stays, and so does a network that then no longer runs,
    as one whose code casts its inputs.
    """
    halves = {
        tensor: tensor.dtype
        for tensor in (*classifier.network.parameters(), *classifier.network.buffers())
        if tensor.dtype in (torch.float16, torch.bfloat16)
    }
    try:
        _cast(classifier, dict.fromkeys(halves, torch.float32))
        if halves and not runs(classifier):
            _cast(classifier, halves)
        yield
    finally:
        _cast(classifier, halves)


def _cast(classifier: Classifier, numbers: Mapping[Tensor, torch.dtype]) -> None:
    """Give the network's tensors other numbers, and its inputs with them."""
    for tensor, number in numbers.items():
        tensor.data = tensor.data.to(number)
    classifier._number = _number(classifier.network)


@contextmanager
def all_frozen(device: torch.device, *classifiers: Classifier | None) -> Iterator[None]:
    """As :func:`frozen`, of all that there are."""
    with ExitStack() as stack:
        for classifier in classifiers:
            if classifier is not None:
                stack.enter_context(frozen(classifier, device))
        yield


def _layer(norm: _BatchNorm, values: Tensor) -> Layer:
    assert norm.running_mean is not None and norm.running_var is not None
    return Layer(values, norm.running_mean, (norm.running_var + norm.eps).sqrt())


def _device(module: nn.Module) -> torch.device:
    tensors = [*module.parameters(), *module.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def _number(network: nn.Module) -> torch.dtype:
    """What the network's weights are, which its inputs must be too; float32 where it has none."""
    floating = (p.dtype for p in network.parameters() if p.dtype.is_floating_point)
    return next(floating, torch.float32)


def _per_channel(
    values: Sequence[float] | None, spec: ImageSpec, what: str, default: float
) -> Tensor:
    if values is not None and not isinstance(values, Iterable):
        raise PreimageError(
            f"expected values of {what} in a tuple, one a channel, found {values}; give "
            f"{what}=({values},)"
        )
    numbers = [default] * spec.channels if values is None else [float(v) for v in values]
    if len(numbers) == 1:
        numbers *= spec.channels
    if len(numbers) != spec.channels:
        raise PreimageError(
            f"expected {spec.channels} values of {what}, one a channel, found {len(numbers)}; "
            f"give --{what} as many as the image has channels"
        )
    return torch.tensor(numbers).view(1, -1, 1, 1)


def _names(given: Sequence[str] | None, classes: int) -> tuple[str, ...]:
    if given is None:
        return tuple(str(k) for k in range(classes))
    if len(given) != classes:
        raise PreimageError(
            f"expected {classes} class names, one per logit, found {len(given)}; "
            "the data set and the classifier do not fit together"
        )
    return tuple(given)


def first_argument(arguments: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """A layer's input, whether the network gives it by place or by name."""
    first: Tensor = arguments[0] if arguments else next(iter(named.values()))
    return first


def running_linears(network: nn.Module, inputs: Tensor) -> list[tuple[str, nn.Linear, Tensor]]:
    """Name, layer and input of each `nn.Linear`, in the order in which they run on `inputs`."""
    order: list[tuple[str, nn.Linear, Tensor]] = []
    handles = [
        module.register_forward_pre_hook(
            lambda layer, *given, name=name: order.append((name, layer, first_argument(*given))),
            with_kwargs=True,
        )
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return order


def _last_linear(network: nn.Module, inputs: Tensor) -> str:
    """Name of the last `nn.Linear` that runs on `inputs`."""
    order = running_linears(network, inputs)
    if not order:
        raise PreimageError(
            f"expected a linear layer to take the features from, found none in "
            f"{type(network).__name__}; name the layer whose input to use with --feature-layer"
        )
    return order[-1][0]

"""Give a trained classifier a garbage class: in its last layer, or beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from preimage.classifier import Classifier, frozen
from preimage.errors import PreimageError
from preimage.tensors import below

GARBAGE = "garbage"
"""Name of the last class."""

Mode = Literal["extend", "beside"]
_HIDDEN = 64


def with_garbage(classifier: Classifier, mode: Mode) -> Classifier:
    """A copy of `classifier` with one more class, garbage, as the last.

    Args:
        classifier: of K classes; it is left as it is.
        mode: "extend" gives its last linear layer one more output, and all of the copy can be
            trained; "beside" puts a small network next to it that reads its features, and nothing
            else of the copy learns, so the K logits stay what they were.

    Raises:
        PreimageError: for "extend", where the logits do not come straight from a linear layer.
    """
    return _MODES[mode](classifier)


def can_extend(classifier: Classifier) -> bool:
    """Whether :func:`with_garbage` can extend it: its logits come straight from a linear layer."""
    layer = classifier.feature_layer
    module = classifier.network.get_submodule(layer) if layer else None
    return isinstance(module, nn.Linear) and _gives_logits(classifier)


def extend(classifier: Classifier) -> Classifier:
    """As :func:`with_garbage` with "extend"; the new row of weights starts at zero."""
    network = copy.deepcopy(classifier.network)
    old = _last_layer(classifier, network)
    new = nn.Linear(old.in_features, classifier.classes + 1).to(old.weight)
    with torch.no_grad():
        new.weight.zero_()[:-1] = old.weight
        new.bias.zero_()
        if old.bias is not None:
            new.bias[:-1] = old.bias
    assert classifier.feature_layer is not None
    network.set_submodule(classifier.feature_layer, new)
    return _finish(classifier, network, classifier.mean, classifier.std, classifier.feature_layer)


def beside(classifier: Classifier) -> Classifier:
    """As :func:`with_garbage` with "beside"."""
    return _finish(classifier, Beside(copy.deepcopy(classifier)), None, None, None)


_MODES: dict[str, Callable[[Classifier], Classifier]] = {"extend": extend, "beside": beside}


def known_weights(weights: Mapping[str, Tensor], mode: Mode) -> dict[str, Tensor]:
    """Of the weights of a network with garbage those of the network that it was made from.

    With "extend" its last layer has a row more than there.
    """
    return below("inner.network.", weights) if mode == "beside" else dict(weights)


class Beside(nn.Module):
    """A frozen classifier, and a small network on its features that says how much is garbage.

    Args:
        inner: of K classes; kept in evaluation mode and without gradients for its weights.
    """

    def __init__(self, inner: Classifier):
        super().__init__()
        self.inner = inner.eval().requires_grad_(False)
        self.garbage = nn.Sequential(
            nn.LayerNorm(inner.feature_size),
            nn.Linear(inner.feature_size, _HIDDEN),
            nn.LeakyReLU(0.1),
            nn.Linear(_HIDDEN, 1),
        )

    def train(self, mode: bool = True) -> Beside:
        """Switch the mode of the small network alone."""
        super().train(mode)
        self.inner.eval()
        return self

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K + 1) and the inner features (B, D) of images (B, C, H, W) in [0, 1]."""
        logits, features = self.inner(images)
        return torch.cat([logits, self.garbage(features)], dim=1), features

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K + 1)."""
        return self.logits_and_features(images)[0]


def _finish(
    classifier: Classifier,
    network: nn.Module,
    mean: Tensor | None,
    std: Tensor | None,
    feature_layer: str | None,
) -> Classifier:
    return Classifier(
        network,
        classifier.spec,
        mean=None if mean is None else mean.flatten().tolist(),
        std=None if std is None else std.flatten().tolist(),
        feature_layer=feature_layer,
        class_names=(*classifier.class_names, GARBAGE),
        name=f"{classifier.name} with {GARBAGE}",
        arch=classifier.arch,
    )


def _last_layer(classifier: Classifier, network: nn.Module) -> nn.Linear:
    """The linear layer in `network`, a copy of the classifier's, that the logits come from."""
    layer = classifier.feature_layer
    module = network.get_submodule(layer) if layer else None
    if not can_extend(classifier):
        raise PreimageError(
            f"expected the logits of '{classifier.name}' to come straight from its last linear "
            f"layer, found {type(module).__name__}; put the garbage class next to it with --head "
            "beside"
        )
    return cast(nn.Linear, module)


@torch.no_grad()
def _gives_logits(classifier: Classifier) -> bool:
    """Whether what leaves the feature layer is the classifier's answer."""
    assert classifier.feature_layer is not None
    layer = cast(nn.Linear, classifier.network.get_submodule(classifier.feature_layer))
    images = torch.rand(2, *classifier.spec.shape, generator=torch.Generator().manual_seed(0))
    with frozen(classifier):
        answer = classifier(images.to(classifier.mean.device))
        if answer.features.shape[1] != layer.in_features:  # the layer runs once for every token
            return False
        # not the layer's own forward, which a subclass may have changed: a plain one replaces it
        weight, bias = (p if p is None else p.float() for p in (layer.weight, layer.bias))
        given = F.linear(answer.features, weight, bias)
    return given.shape == answer.logits.shape and bool(torch.allclose(given, answer.logits))

"""Detectors that need no garbage class, from pytorch-ood, on a plain classifier.

A new baseline is a function with ``@baseline("name")``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from preimage.classifier import Classifier, frozen
from preimage.data import ImageSet
from preimage.drawing import chunks
from preimage.errors import PreimageError
from preimage.inversion import predict
from preimage.runtime import channels_last, stream
from preimage.types import Prediction

Scorer = Callable[[Tensor, Prediction], Tensor]
"""Images (B, C, H, W) and the classifier's answer to scores (B,), larger for more unknown."""

UNFITTED = ("msp", "maxlogit", "energy", "odin")
"""Baselines that need no images to be fitted to."""
_FIT_IMAGES = 20_000
_NEIGHBOURS = 50  # the paper's choice for CIFAR-10


class Fitted:
    """A plain classifier and its answers on images that it was trained on.

    Args:
        classifier: of n classes.
        train: its training images; a fixed random choice of at most 20,000 is used.
        seed: of that choice.
    """

    def __init__(self, classifier: Classifier, train: ImageSet, seed: int = 0):
        self.classifier = classifier
        order = torch.randperm(len(train), generator=stream(seed, "baselines"))[:_FIT_IMAGES]
        chosen = train.subset(order)
        answers = [predict(classifier, chosen.floats(rows)) for rows in chunks(len(chosen))]
        self.features = torch.cat([answer.features for answer in answers])
        """(N, D)."""
        self.labels = chosen.labels
        """(N,)."""
        self.trial = chosen.floats(next(chunks(len(chosen)))), answers[0]
        """A batch of the images, as many as are scored at a time where there are so many, and the
        answer to it."""

    def last_layer(self) -> nn.Linear:
        """The linear layer from the features to the logits.

        Raises:
            PreimageError: where the classifier has none.
        """
        name = self.classifier.feature_layer
        layer = self.classifier.network.get_submodule(name) if name else None
        if not isinstance(layer, nn.Linear) or layer.out_features != self.classifier.classes:
            raise PreimageError(
                f"expected a linear layer from features to logits in '{self.classifier.name}', "
                f"found {type(layer).__name__}; leave out vim and react"
            )
        return layer

    def weights(self) -> tuple[Tensor, Tensor]:
        """The last layer's weights (n, D) and biases (n,), on the CPU."""
        layer = self.last_layer()
        bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias
        return layer.weight.detach().cpu().float(), bias.detach().cpu().float()


Baseline = Callable[[Fitted], Scorer]
_BASELINES: dict[str, Baseline] = {}


def baseline(name: str) -> Callable[[Baseline], Baseline]:
    """Register a baseline under `name`."""

    def add(function: Baseline) -> Baseline:
        _BASELINES[name] = function
        return function

    return add


def baseline_names() -> tuple[str, ...]:
    """Names of all baselines."""
    return tuple(_BASELINES)


def fit_baseline(name: str, fitted: Fitted) -> Scorer:
    """Make a baseline ready.

    Raises:
        PreimageError: for an unknown name, or where pytorch-ood is not installed.
    """
    if name not in _BASELINES:
        raise PreimageError(
            f"expected a baseline out of {', '.join(_BASELINES)}, found '{name}'; choose one of "
            "those"
        )
    return _BASELINES[name](fitted)


def fit_baselines(names: Iterable[str], fitted: Fitted) -> tuple[dict[str, Scorer], dict[str, str]]:
    """Make all baselines ready that can be: the scorers, and why each of the others is left out.

    One that a stranger's network is too much for must not cost the others, so each also scores a
    batch here: a network without gradients, or too large for them, shows before the measuring.
    """
    scorers: dict[str, Scorer] = {}
    left_out: dict[str, str] = {}
    for name in names:
        try:
            scorer = fit_baseline(name, fitted)
            scorer(*fitted.trial)
            scorers[name] = scorer
        except PreimageError as error:
            left_out[name] = str(error)
        except Exception as error:
            left_out[name] = f"{type(error).__name__}: {error}"
    return scorers, left_out


def detectors() -> Any:
    """The module pytorch_ood.detector.

    Raises:
        PreimageError: where it is not installed.
    """
    try:
        import pytorch_ood.detector
    except ImportError as error:
        raise PreimageError(
            f"expected the package pytorch-ood for the baselines, found that it does not import "
            f"({error}); install it with: pip install pytorch-ood, or leave the baselines out "
            "by --baselines with no name after it"
        ) from error
    return pytorch_ood.detector


@baseline("msp")
def msp(fitted: Fitted) -> Scorer:
    """Maximum softmax probability (Hendrycks & Gimpel 2017).

    Needs no pytorch-ood: an audit's second answer rests on it, wherever preimage is installed.
    """
    return lambda _, answer: -answer.logits.softmax(1).amax(1)


@baseline("maxlogit")
def maxlogit(fitted: Fitted) -> Scorer:
    """Maximum logit (Hendrycks et al. 2022)."""
    return _of_logits(detectors().MaxLogit(None))


@baseline("energy")
def energy(fitted: Fitted) -> Scorer:
    """Energy (Liu et al. 2020)."""
    return _of_logits(detectors().EnergyBased(None))


@baseline("odin")
def odin(fitted: Fitted) -> Scorer:
    """ODIN (Liang et al. 2018), temperature 1000, step 0.0014 in units of [0, 1] images."""
    classifier = fitted.classifier

    def logits(images: Tensor) -> Tensor:
        return cast(Tensor, classifier(channels_last(images)).logits)

    detector = detectors().ODIN(logits)

    def scores(images: Tensor, answer: Prediction) -> Tensor:
        device = classifier.mean.device
        with frozen(classifier), torch.enable_grad():
            rows = chunks(len(images), classifier.spec)  # gradients keep every activation
            parts = [detector.predict(images[part].to(device)) for part in rows]
        return torch.cat(parts).detach().cpu()

    return scores


@baseline("mahalanobis")
def mahalanobis(fitted: Fitted) -> Scorer:
    """Mahalanobis distance of the penultimate features (Lee et al. 2018)."""
    labels = fitted.labels.unique(return_inverse=True)[1]
    detector = detectors().Mahalanobis(None).fit_features(fitted.features, labels)
    return lambda _, answer: detector.predict_features(answer.features)


@baseline("knn")
def knn(fitted: Fitted) -> Scorer:
    """Distance to the 50th neighbour among normalised features (Sun et al. 2022)."""
    neighbours = min(_NEIGHBOURS, len(fitted.features))
    detector = detectors().KNN(None, k=neighbours).fit_features(fitted.features, fitted.labels)
    return lambda _, answer: detector.predict_features(answer.features)


@baseline("vim")
def vim(fitted: Fitted) -> Scorer:
    """Virtual-logit matching (Wang et al. 2022), with half of the features as its subspace."""
    weights, biases = fitted.weights()
    detector = detectors().ViM(None, d=fitted.features.shape[1] // 2, w=weights, b=biases)
    detector.fit_features(fitted.features, fitted.labels)
    return lambda _, answer: detector.predict_features(answer.features)


@baseline("react")
def react(fitted: Fitted) -> Scorer:
    """ReAct (Sun et al. 2021): energy after clipping the features at their 90th percentile."""
    weights, biases = fitted.weights()
    detector = detectors().ReAct(
        backbone=lambda features: features,
        head=lambda features: features.flatten(1) @ weights.T + biases,
    )
    detector.fit_feature_maps(fitted.features, fitted.labels)
    return lambda _, answer: detector.predict_feature_maps(answer.features)


def _of_logits(detector: Any) -> Scorer:
    return lambda _, answer: detector.predict_logits(answer.logits)

"""Loss terms, and the objective that sums them.

The four of the paper ("Network Inversion and Its Applications", arXiv 2411.17777) are here, with
its weights alpha to delta. A term is a pure function of a whole batch's
:class:`~preimage.types.Sample`: a finite scalar, lower is better. An objective gives each a weight
of at least 0. A new term is one function with the ``@term`` decorator, or any function named
``package.module:function`` in the settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from preimage.errors import PreimageError
from preimage.plugins import import_attribute
from preimage.types import Sample

Term = Callable[[Sample], Tensor]
_TERMS: dict[str, Term] = {}


def term(name: str) -> Callable[[Term], Term]:
    """Register a term under `name`."""

    def register(function: Term) -> Term:
        _TERMS[name] = function
        return function

    return register


def names() -> tuple[str, ...]:
    """Names of the registered terms."""
    return tuple(_TERMS)


@term("kl")
def kl_divergence(sample: Sample) -> Tensor:
    """KL(target || softmax(logits)), mean over the batch, in nats (alpha).

    At least 0, and 0 just where the classifier's distribution is the target.
    """
    log_probabilities = F.log_softmax(sample.prediction.logits, dim=1)
    return F.kl_div(log_probabilities, sample.condition.target, reduction="batchmean")


@term("ce")
def cross_entropy(sample: Sample) -> Tensor:
    """Cross-entropy of the logits with the label, mean over the batch, in nats (beta)."""
    return F.cross_entropy(sample.prediction.logits, sample.condition.label)


@term("cosine")
def cosine_similarity(sample: Sample) -> Tensor:
    """Mean cosine similarity of the features of different images, in [-1, 1] (gamma)."""
    similarity = _gram(sample.prediction.features)
    count = len(similarity)
    if count < 2:
        return similarity.sum() * 0.0
    return (similarity.sum() - similarity.diagonal().sum()) / (count * (count - 1))


@term("orthogonality")
def orthogonality(sample: Sample) -> Tensor:
    """||F F^T - I||^2 / (B (B - 1)), F the row-normalised features (B, D) (delta).

    The paper's term without the division grows with the square of the batch; divided by the
    number of pairs it is the mean squared cosine, in [0, 1], and a weight serves every batch size.
    """
    similarity = _gram(sample.prediction.features)
    count = len(similarity)
    if count < 2:
        return similarity.sum() * 0.0
    identity = torch.eye(count, device=similarity.device)
    return (similarity - identity).square().sum() / (count * (count - 1))


def _gram(features: Tensor) -> Tensor:
    unit = F.normalize(features, dim=1)
    return unit @ unit.T


@dataclass(frozen=True)
class WeightedTerm:
    """A term, its name in logs and its weight, at least 0."""

    name: str
    term: Term
    weight: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise PreimageError(
                f"expected a finite weight of at least 0 for the term '{self.name}', found "
                f"{self.weight}; terms are lower-is-better, so no weight is negative"
            )


def _scalar(item: WeightedTerm, sample: Sample) -> Tensor:
    """A term's value; a user's own may fail or return something else."""
    try:
        value = item.term(sample)
    except PreimageError:
        raise
    except Exception as error:
        raise PreimageError(
            f"expected the term '{item.name}' to work on a sample of {len(sample.images)} images, "
            f"found {type(error).__name__}: {error}; mend its code"
        ) from error
    if not (isinstance(value, Tensor) and value.ndim == 0):
        found = f"a tensor of {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise PreimageError(
            f"expected the term '{item.name}' to return a scalar tensor, found {found[:80]}; "
            "return the mean over the batch"
        )
    return value


class Objective:
    """A weighted sum of terms.

    Args:
        terms: at least one with a weight above 0, names all different.

    Raises:
        PreimageError: for no term with a weight, or a name that comes twice.
    """

    def __init__(self, terms: Iterable[WeightedTerm]):
        self.terms = tuple(item for item in terms if item.weight > 0)
        given = [item.name for item in self.terms]
        if not given:
            raise PreimageError(
                "expected at least one loss term with a weight above 0, found none; "
                "set --alpha or --beta above 0"
            )
        if len(set(given)) != len(given):
            raise PreimageError(
                f"expected every loss term once, found {', '.join(given)}; drop the repeated one"
            )

    def values(self, sample: Sample) -> dict[str, Tensor]:
        """Each term's value times its weight, by name."""
        return {item.name: item.weight * _scalar(item, sample) for item in self.terms}

    def __call__(self, sample: Sample) -> Tensor:
        """The weighted sum, a scalar."""
        return torch.stack(list(self.values(sample).values())).sum()


def paper_terms(alpha: float, beta: float, gamma: float, delta: float) -> list[WeightedTerm]:
    """The paper's four terms under its own names for the weights."""
    return [
        WeightedTerm("kl", kl_divergence, alpha),
        WeightedTerm("ce", cross_entropy, beta),
        WeightedTerm("cosine", cosine_similarity, gamma),
        WeightedTerm("orthogonality", orthogonality, delta),
    ]


def parse_term(text: str) -> WeightedTerm:
    """Read ``NAME=WEIGHT``; NAME is registered or a ``package.module:function``.

    Raises:
        PreimageError: for another form, an unknown name or a wrong weight.
    """
    name, separator, number = text.rpartition("=")
    try:
        weight = float(number)
    except ValueError:
        separator = ""
    if not separator:
        raise PreimageError(
            f"expected a term as NAME=WEIGHT, found '{text}'; write for example cosine=0.1"
        )
    if name in _TERMS:
        return WeightedTerm(name, _TERMS[name], weight)
    if ":" not in name:
        raise PreimageError(
            f"expected a loss term out of {', '.join(names())} or package.module:function, "
            f"found '{name}'; correct its name"
        )
    function = import_attribute(name, "loss term")
    if not callable(function):
        raise PreimageError(
            f"expected a function for the loss term '{name}', found {type(function).__name__}; "
            "name a function of a Sample"
        )
    return WeightedTerm(name, function, weight)

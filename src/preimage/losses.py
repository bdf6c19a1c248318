"""The objective that sums weighted loss terms.

An objective gives each term a weight of at least 0. The terms themselves are in `preimage.terms`,
or any function named ``package.module:function`` in the settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from preimage import terms as library
from preimage.errors import PreimageError
from preimage.plugins import import_attribute, is_plugin
from preimage.terms import Term, paper
from preimage.types import Sample

_OF_CLASS = ("kl", "ce", "sureness")
"""Terms that ask for the wanted class."""


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

    @property
    def reads_layers(self) -> bool:
        """Whether some term asks for ``sample.layers``."""
        return any(library.reads_layers(item.term) for item in self.terms)

    @property
    def asks_for_class(self) -> bool:
        """Whether some term asks for images of the wanted class; one of a user's own may."""
        return any(item.name in _OF_CLASS or is_plugin(item.name) for item in self.terms)

    def values(self, sample: Sample) -> dict[str, Tensor]:
        """Each term's value times its weight, by name."""
        return {item.name: item.weight * _scalar(item, sample) for item in self.terms}

    def __call__(self, sample: Sample) -> Tensor:
        """The weighted sum, a scalar."""
        return torch.stack(list(self.values(sample).values())).sum()


def paper_terms(alpha: float, beta: float, gamma: float, delta: float) -> list[WeightedTerm]:
    """The paper's four terms under its own names for the weights."""
    return [
        WeightedTerm("kl", paper.kl_divergence, alpha),
        WeightedTerm("ce", paper.cross_entropy, beta),
        WeightedTerm("cosine", paper.cosine_similarity, gamma),
        WeightedTerm("orthogonality", paper.orthogonality, delta),
    ]


def imported_terms(texts: Iterable[str]) -> dict[str, Term]:
    """Those of the terms that a user wrote, by their ``package.module:function``.

    Args:
        texts: as for :func:`parse_term`.

    Raises:
        PreimageError: as :func:`parse_term`.
    """
    return {item.name: item.term for item in map(parse_term, texts) if is_plugin(item.name)}


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
    known = library.find(name)
    if known is not None:
        return WeightedTerm(name, known, weight)
    if not is_plugin(name):
        raise PreimageError(
            f"expected a loss term out of {', '.join(library.names())} or package.module:function, "
            f"found '{name}'; correct its name"
        )
    function = import_attribute(name, "loss term")
    if not callable(function):
        raise PreimageError(
            f"expected a function for the loss term '{name}', found {type(function).__name__}; "
            "name a function of a Sample"
        )
    return WeightedTerm(name, function, weight)

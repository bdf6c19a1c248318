"""Where loss terms are registered by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor

from preimage.types import Sample

Term = Callable[[Sample], Tensor]
_TERMS: dict[str, Term] = {}


def term(name: str, *, layers: bool = False) -> Callable[[Term], Term]:
    """Register a term under `name`.

    Args:
        name: what ``--terms NAME=WEIGHT`` calls it.
        layers: whether it reads ``sample.layers``, which are only filled when a term asks. A
            function that is not registered asks by an attribute ``layers = True``.
    """

    def register(function: Term) -> Term:
        function.layers = layers  # type: ignore[attr-defined]
        _TERMS[name] = function
        return function

    return register


def names() -> tuple[str, ...]:
    """Names of the registered terms."""
    return tuple(_TERMS)


def find(name: str) -> Term | None:
    """The term registered under `name`."""
    return _TERMS.get(name)


def reads_layers(function: Term) -> bool:
    """Whether a term asks for ``sample.layers``."""
    return cast(bool, getattr(function, "layers", False))

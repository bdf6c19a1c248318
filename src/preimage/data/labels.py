"""Class indices and names from whatever a source stores as labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from preimage.errors import PreimageError

_MOST_CLASSES = 100_000
_ADVICE = "mend the labels, or load it without labels"


def encode_labels(
    values: Sequence[Any], everywhere: Sequence[Any], where: str
) -> tuple[Tensor, tuple[str, ...]]:
    """Number labels that come without class names.

    Strings are numbered in sorted order. Integers are class indices already and keep their value,
    so that class k of a classifier trained elsewhere stays class k.

    Args:
        values: labels of the rows that were read, all strings or all integers.
        everywhere: distinct labels of all splits, so that splits agree on the numbering.
        where: what to call the source in a message.

    Returns:
        (N,) int64 class indices, and the class names.

    Raises:
        PreimageError: missing or negative labels, labels of several kinds, or fewer than two
            distinct ones.
    """
    distinct = set(everywhere)
    if None in distinct:
        raise PreimageError(f"some rows of {where} have no label: {_ADVICE}")
    if len(distinct) < 2:
        raise _one_class(where)
    if all(isinstance(value, str) for value in distinct):
        names = tuple(sorted(distinct))
        number = {name: k for k, name in enumerate(names)}
        return torch.tensor([number[value] for value in values], dtype=torch.int64), names
    if not all(isinstance(value, int) for value in distinct):
        kinds = sorted({type(value).__name__ for value in distinct})
        raise PreimageError(
            f"{where} has labels of the kinds {' and '.join(kinds)} in its splits, expected all "
            f"integers or all strings: {_ADVICE}"
        )
    highest = max(distinct)
    if highest >= _MOST_CLASSES:
        raise PreimageError(
            f"{where} has label {highest}, expected class indices from 0 to {_MOST_CLASSES - 1}: "
            f"{_ADVICE}"
        )
    names = tuple(str(k) for k in range(highest + 1))
    return check_labels(values, names, where), names


def check_labels(values: Sequence[Any], names: Sequence[str], where: str) -> Tensor:
    """Class indices as a tensor, once they are known to fit the class names.

    Raises:
        PreimageError: a missing label, one outside [0, len(names)), or fewer than two names.
    """
    if len(names) < 2:
        raise _one_class(where)
    for row, value in enumerate(values):
        if value is None or not 0 <= value < len(names):
            raise PreimageError(
                f"row {row} of {where} has label {value}, expected 0 to {len(names) - 1}: {_ADVICE}"
            )
    return torch.tensor(values, dtype=torch.int64)


def _one_class(where: str) -> PreimageError:
    return PreimageError(
        f"{where} has fewer than two classes, a classifier needs two or more: add images of "
        "another class, or load it without labels"
    )

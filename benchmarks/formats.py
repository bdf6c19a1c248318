"""How the tables write titles, figures and rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from preimage.records import Figure, Record

TITLES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "gtsrb": "GTSRB",
    "svhn": "SVHN",
    "cifar100": "CIFAR-100",
}


def title(dataset: str) -> str:
    """A data set as people write it."""
    return TITLES.get(dataset, dataset)


def rank(dataset: str) -> int:
    """Where a data set stands: in the order of the titles, what has none last."""
    return [*TITLES, dataset].index(dataset)


def title_of(record: Record) -> str:
    """The title of a record's data set."""
    return title(str(record["dataset"]))


def by_dataset(record: Record) -> int:
    """Sorts records by where their data sets stand."""
    return rank(str(record["dataset"]))


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table: the first column to the left, the others to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def deviated(figure: Figure, n: int, scale: float, digits: int | None = None) -> str:
    """Mean and deviation, to as many digits as the figure's size asks for.

    Args:
        figure: over the `figure.values` of `n` records that have a value.
        n: records.
        scale: 100 for shares that are shown as percentages, else 1.
        digits: after the point, where they are not to follow from the size.
    """
    if figure.mean is None:
        return "not measured"
    if digits is None:
        large = abs(figure.mean * scale) >= 100
        digits = 0 if scale == 1 and large else 1 if large else 2
    text = f"{figure.mean * scale:.{digits}f}"
    if figure.deviation is not None:
        text += f" ± {figure.deviation * scale:.{digits}f}"
    return text if figure.values == n else f"{text} ({figure.values} of {n} seeds)"


def pivot(
    cells: Iterable[tuple[tuple[str, str], int, str]], columns: Sequence[int], missing: str
) -> list[list[str]]:
    """A row for every pair of names, with its text in each column."""
    found: dict[tuple[str, str], dict[int, str]] = {}
    for names, column, text in cells:
        found.setdefault(names, {})[column] = text
    return [[*names, *(at.get(one, missing) for one in columns)] for names, at in found.items()]

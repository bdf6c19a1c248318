"""The tables of docs/leak.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from formats import by_dataset, deviated, markdown, pivot, title_of
from preimage.records import Record, summarise

_CELL = ("dataset", "arch", "n_train", "classes", "first_scale", "steps", "method")
_FOUND = (
    *("recovered", "recovered_control", "copied", "copied_control"),
    *("ssim_train", "ssim_control", "p_value"),
)
_FOUND_TITLES = (
    *("recovered", "held-out", "copied", "held-out copied"),
    *("SSIM, training", "SSIM, held-out", "p-value"),
)
_BY_LOSS, _BY_LOSS_TITLE = "membership_loss_auroc", "AUROC by loss"
_BY_WEIGHTS, _BY_WEIGHTS_TITLE = "membership_auroc", "AUROC by weights"
_FIGURES = (*_FOUND, _BY_LOSS, "seconds")
_TITLES = (*_FOUND_TITLES, _BY_LOSS_TITLE, "seconds")
_DIGITS = dict.fromkeys(("ssim_train", "ssim_control", "p_value", _BY_LOSS, _BY_WEIGHTS), 3)
_SEARCH = "without unmixing"
"""The method that looks for all images."""
_PART = f"{_SEARCH}, "
"""What the methods begin with that switch a term off as well."""
_WHOLE = "whole"
_ARCHS = {"bundled": "bundled CNN", "vit": "ViT"}
_HEADLINE = {"first_scale": 1e-4, "n_train": 100}
_DIRECT = "preimage-direct"
"""The usual method."""
_SHORT = "preimage-direct-short"
"""The same in fewer steps, for architectures whose steps take long."""
_HEADLINE_METHODS = (_DIRECT, "kkt", _SHORT, "kkt-short")


def headline_table(records: list[Record]) -> str:
    """:func:`small_table` of what leaks most, by the usual method and by stationarity alone."""
    mine = [r for r in records if r["method"] in _HEADLINE_METHODS]
    return small_table([r for r in mine if all(r[k] == v for k, v in _HEADLINE.items())])


def small_table(records: list[Record]) -> str:
    """A row a classifier and method, where leaking is known to happen."""
    mine = [r for r in _undefended(records) if not r["method"].startswith(_PART)]
    rows = [
        [
            _classifier(group),
            group["method"],
            _verdicts(mine, group),
            *_cells(group, _FIGURES),
            str(group["n"]),
        ]
        for group in _groups(mine, _CELL)
    ]
    header = ["classifier", "method", "leaks", *_TITLES, "seeds"]
    return markdown(header, rows) if rows else ""


def calibration_table(records: list[Record]) -> str:
    """A row a classifier: how often the verdict is wrong on images that it has never seen."""
    mine = [r for r in records if not r["leaky"] and r["method"] != _WHOLE]
    if not mine:
        return ""
    keys = (*_CELL, "defence")
    rows = [
        [
            *(_classifier(group), group["defence"], group["method"]),
            *(str(group["n"]), _verdicts(mine, group, keys)),
        ]
        for group in _groups(mine, keys)
    ]
    alarms = sum(record["verdict"] == "leaks" for record in mine)
    rows.append(["all", "", "", str(len(mine)), str(alarms)])
    return markdown(["classifier", "defence", "method", "trials", "leaks"], rows)


def whole_table(records: list[Record]) -> str:
    """A row a classifier that has seen its whole training set."""
    mine = [r for r in records if r["method"] == _WHOLE]
    groups = summarise(mine, ["dataset", "arch"], ["target_accuracy", *_FIGURES])
    rows = [
        [
            title_of(group),
            _arch(group),
            deviated(group["target_accuracy"], group["n"], 100),
            _verdicts(mine, group, keys=("dataset", "arch")),
            *_cells(group, _FIGURES),
            str(group["n"]),
        ]
        for group in sorted(groups, key=by_dataset)
    ]
    header = ["data set", "architecture", "accuracy, %", "leaks", *_TITLES, "seeds"]
    return markdown(header, rows) if rows else ""


def power_table(records: list[Record]) -> str:
    """A row an architecture, a column a number of training images: how often it still leaks."""
    mine = [
        r
        for r in _undefended(records)
        if r["method"] == (_DIRECT if r["arch"] == "mlp" else _SHORT)
        and (r["first_scale"], r["classes"]) == (1e-4, 2)
    ]
    cells = [
        (
            (title_of(group), _arch(group)),
            int(group["n_train"]),
            f"{_verdicts(mine, group)}, p {group['p_value'].mean:.3f}",
        )
        for group in _groups(mine, _CELL)
    ]
    sizes = sorted({size for _, size, _ in cells})
    header = ["data set", "architecture", *(f"{size:,} images" for size in sizes)]
    return markdown(header, pivot(cells, sizes, "not measured")) if cells else ""


def defence_table(records: list[Record]) -> str:
    """A row a defence: what leaks with it, and what it costs."""
    mine = [r for r in records if r["leaky"] and r["method"] == _DIRECT]
    same = (*_CELL, "seed")  # the same images: what is left of the difference is the defence's
    with_others = {_of(r, same) for r in mine if r["defence"] != "none"}
    mine = [r for r in mine if _of(r, same) in with_others]
    rows = [
        [
            _classifier(group),
            group["defence"],
            _verdicts(mine, group, (*_CELL, "defence")),
            deviated(group["target_accuracy"], group["n"], 100),
            *_cells(group, (*_FOUND, _BY_WEIGHTS, _BY_LOSS)),
            str(group["n"]),
        ]
        for group in sorted(
            summarise(mine, [*_CELL, "defence"], ["target_accuracy", *_FIGURES, _BY_WEIGHTS]),
            key=lambda group: (_order(group), group["defence"] != "none"),
        )
    ]
    header = [
        *("classifier", "defence", "leaks", "accuracy, %"),
        *(*_FOUND_TITLES, _BY_WEIGHTS_TITLE, _BY_LOSS_TITLE, "seeds"),
    ]
    return markdown(header, rows) if rows else ""


def parts_table(records: list[Record]) -> str:
    """A row a term: what the search for all images finds without it."""
    mine = [r for r in _undefended(records) if r["method"].startswith(_SEARCH)]
    ablated = {_of(r, _CELL[:-1]) for r in mine if r["method"].startswith(_PART)}
    ablated &= {_of(r, _CELL[:-1]) for r in mine if r["method"] == _SEARCH}  # to compare with
    mine = [r for r in mine if _of(r, _CELL[:-1]) in ablated]
    rows = [
        [
            _classifier(group),
            "none" if group["method"] == _SEARCH else group["method"].removeprefix(_PART),
            _verdicts(mine, group),
            *_cells(group, _FOUND),
            str(group["n"]),
        ]
        for group in _groups(mine, _CELL)
    ]
    header = ["classifier", "term left out", "leaks", *_FOUND_TITLES, "seeds"]
    return markdown(header, rows) if rows else ""


def membership_table(records: list[Record]) -> str:
    """A row a classifier: how well its first layer tells what it was trained on."""
    figures = ["directions", "outside_train", "outside_control", "auroc", "p_value"]
    keys = ["dataset", "arch", "n_train", "classes", "first_scale"]
    known = sorted(summarise([r for r in records if r["members"]], keys, figures), key=_order)
    unseen = {
        _of(group, tuple(keys)): group
        for group in summarise([r for r in records if not r["members"]], keys, figures)
    }
    rows = []
    for group in known:
        other = unseen[_of(group, tuple(keys))]
        rows.append(
            [
                _classifier(group),
                deviated(group["directions"], group["n"], 1, 0),
                *(deviated(group[name], group["n"], 100) for name in figures[1:3]),
                deviated(group["auroc"], group["n"], 1, 3),
                deviated(group["p_value"], group["n"], 1, 4),
                deviated(other["auroc"], other["n"], 1, 3),
                deviated(other["p_value"], other["n"], 1, 4),
                str(group["n"]),
            ]
        )
    header = [
        *("classifier", "directions", "training images outside, %", "held-out outside, %"),
        *("AUROC", "p-value", "AUROC, two unseen groups", "p-value", "seeds"),
    ]
    return markdown(header, rows) if rows else ""


def _undefended(records: list[Record]) -> list[Record]:
    """Reconstructions of classifiers that leak as far as is known, trained as usual."""
    return [r for r in records if r["leaky"] and r["defence"] == "none"]


def _cells(group: Record, fields: tuple[str, ...]) -> list[str]:
    return [deviated(group[field], group["n"], 1, _DIGITS.get(field)) for field in fields]


def _groups(records: list[Record], keys: tuple[str, ...]) -> list[dict[str, Any]]:
    groups = summarise(records, list(keys), list(_FIGURES))
    return sorted(groups, key=_order)


def _order(group: Record) -> tuple[Any, ...]:
    fields = ("arch", "n_train", "classes", "first_scale")
    return by_dataset(group), *(group[field] for field in fields)


def _classifier(group: Record) -> str:
    where = f"{title_of(group)}, {_arch(group)}"
    first = f"first weights x {group['first_scale']:g}"
    return f"{where}, {group['n_train']} images of {group['classes']} classes, {first}"


def _arch(group: Record) -> str:
    return _ARCHS.get(group["arch"], str(group["arch"]).upper())


def _verdicts(records: list[Record], group: Record, keys: tuple[str, ...] = _CELL) -> str:
    """How many of the group's records say that it leaks."""
    own = [r for r in records if _of(r, keys) == _of(group, keys)]
    return f"{sum(r['verdict'] == 'leaks' for r in own)} of {len(own)}"


def _of(record: Record, keys: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(record[key] for key in keys)


TABLES: dict[str, Callable[[list[Record]], str]] = {
    "leak-headline": headline_table,
    "leak-small": small_table,
    "leak-calibration": calibration_table,
    "leak-power": power_table,
    "leak-whole": whole_table,
    "leak-defences": defence_table,
    "leak-parts": parts_table,
}

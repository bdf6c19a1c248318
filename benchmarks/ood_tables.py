"""Tables of results/ood.json, results/ood-parts.json and results/ood-shortcuts.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean, stdev
from typing import Any

from formats import deviated, markdown, rank, title
from preimage.records import Figure, Record, summarise

OURS = ("preimage", "combined")
PUBLISHED = {
    ("mnist", "fashion_mnist"): 89.5,
    ("mnist", "cifar10"): 99.4,
    ("fashion_mnist", "mnist"): 85.2,
    ("fashion_mnist", "cifar10"): 95.7,
    ("cifar10", "mnist"): 97.8,
    ("cifar10", "fashion_mnist"): 95.7,
}
"""Share sent to garbage in percent, by known and unknown set: arXiv 2505.23448, table 1."""

Table = Callable[[list[Any]], str]


def methods_table(records: list[Record], figure: str, real: bool) -> str:
    """A row a method, a column a known set: the mean over the unknown sets."""
    chosen = [r for r in records if r["real"] is real]
    ids = sorted({r["id"] for r in chosen}, key=rank)
    methods = sorted({_name(r) for r in chosen}, key=_order)
    rows = [[method, *(_over_sets(chosen, figure, id, method) for id in ids)] for method in methods]
    return markdown(["method", *map(title, ids)], rows) if rows else ""


def cells_table(records: list[Record]) -> str:
    """A row for every known and unknown set: share sent to garbage, beside the published one.

    Once beyond the thresholds as they were trained, once where these let 98 % of held-out images
    through.
    """
    chosen = [r for r in records if r["real"] and (r["method"], r["score"]) == OURS]
    shares = ["garbage_share", "id_garbage_share", "garbage_share_98", "id_garbage_share_98"]
    groups = summarise(chosen, ["id", "ood"], [*shares, "auroc"])
    groups.sort(key=lambda g: (rank(g["id"]), rank(g["ood"])))
    rows = [
        [
            f"{title(g['id'])} → {title(g['ood'])}",
            deviated(g["garbage_share"], g["n"], 100),
            str(PUBLISHED.get((g["id"], g["ood"]), "")),
            *(deviated(g[share], g["n"], 100) for share in shares[1:]),
            deviated(g["auroc"], g["n"], 1, 4),
        ]
        for g in groups
    ]
    header = [
        *("known → unknown", "sent to garbage, %", "published, %"),
        *("of known images, %", "at 98 %, %", "of known images at 98 %, %", "AUROC"),
    ]
    return markdown(header, rows) if rows else ""


def accuracy_table(records: list[Record]) -> str:
    """A row a known set: accuracy with and without garbage, and the training's time."""
    fields = ["id_accuracy", "id_accuracy_plain", "train_seconds"]
    # each set of unknown images says the same of the known one
    chosen = {(r["id"], r["seed"]): r for r in records if (r["method"], r["score"]) == OURS}
    groups = sorted(summarise(chosen.values(), ["id"], fields), key=lambda g: rank(g["id"]))
    rows = [
        [
            title(g["id"]),
            deviated(g["id_accuracy"], g["n"], 100),
            deviated(g["id_accuracy_plain"], g["n"], 100),
            deviated(g["train_seconds"], g["n"], 1),
            str(g["n"]),
        ]
        for g in groups
    ]
    header = ["known set", "accuracy, %", "plain classifier's, %", "seconds to harden", "seeds"]
    return markdown(header, rows) if rows else ""


def parts_table(records: list[Record], score: str) -> str:
    """A row a variant, a column a known set: mean AUROC over the real unknown sets."""
    chosen = [r for r in records if r["real"] and r["method"] == "preimage" and r["score"] == score]
    ids = sorted({r["id"] for r in chosen}, key=rank)
    variants = list(dict.fromkeys(r["variant"] for r in chosen))
    rows = [
        [
            variant,
            *(
                _over_sets([r for r in chosen if r["variant"] == variant], "auroc", id)
                for id in ids
            ),
        ]
        for variant in variants
    ]
    return markdown(["variant", *map(title, ids)], rows) if rows else ""


def shortcuts_table(records: list[Record]) -> str:
    """A row for every known and unknown set, a column a statistic that tells some pair apart."""
    names = sorted({name for r in records for name in r["statistics"]})
    flat = [{**r, **{name: r["statistics"].get(name) for name in names}} for r in records]
    groups = summarise(flat, ["id", "ood"], names)
    groups.sort(key=lambda g: (rank(g["id"]), rank(g["ood"])))
    rows = [
        [
            f"{title(g['id'])} → {title(g['ood'])}",
            *("" if g[name].mean is None else deviated(g[name], g["n"], 1, 3) for name in names),
        ]
        for g in groups
    ]
    return markdown(["known → unknown", *names], rows) if rows else ""


def _over_sets(records: Sequence[Record], figure: str, id: str, method: str | None = None) -> str:
    """Mean over the unknown sets, and its deviation over the seeds."""
    by_seed: dict[int, list[float]] = {}
    for r in records:
        if r["id"] == id and (method is None or _name(r) == method):
            by_seed.setdefault(r["seed"], []).append(r[figure])
    means = [fmean(values) for values in by_seed.values()]
    if not means:
        return ""
    spread = stdev(means) if len(means) > 1 else None
    return deviated(Figure(fmean(means), spread, len(means)), len(means), 1, 4)


def _name(record: Record) -> str:
    own = record["method"] == OURS[0]
    return f"{record['method']}, {record['score']}" if own else str(record["method"])


def _order(method: str) -> tuple[bool, str]:
    return (not method.startswith(OURS[0]), method)


def _of_bundled(tables: dict[str, Table]) -> dict[str, Table]:
    """The tables of bundled classifiers that were hardened; others were trained from scratch."""

    def of_bundled(table: Table) -> Table:
        return lambda records: table([r for r in records if r["start"] == "bundled"])

    return {name: of_bundled(table) for name, table in tables.items()}


WHOLE = _of_bundled(
    {
        "ood-auroc": partial(methods_table, figure="auroc", real=True),
        "ood-fpr95": partial(methods_table, figure="fpr95", real=True),
        "ood-synthetic": partial(methods_table, figure="auroc", real=False),
        "ood-cells": cells_table,
        "ood-accuracy": accuracy_table,
    }
)
PARTS = _of_bundled(
    {
        "ood-parts-garbage": partial(parts_table, score="garbage"),
        "ood-parts-combined": partial(parts_table, score="combined"),
    }
)

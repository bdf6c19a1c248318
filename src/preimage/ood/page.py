"""What a detector was trained with, as a page."""

from __future__ import annotations

from collections.abc import Sequence

from preimage.ood.hardening import Hardened, HardenEpoch
from preimage.ood.pool import NOISE_ROUND, GarbagePool
from preimage.pages import STRIP, Cell, Strip, Table, page, strip
from preimage.panels import strips, table


def pool_page(name: str, hardened: Hardened) -> str:
    """The garbage pool round by round, and every epoch's figures."""
    pool, kept = hardened.pool, hardened.kept
    numbers = sorted(set(pool.rounds.tolist()))
    return page(
        f"What '{name}' calls garbage",
        "The garbage class began as noise and grew by inversions of the classifier as it was "
        "after each epoch. No real outlier is among them.",
        facts={
            "Images in the pool": f"{len(pool):,}",
            "Rounds of inversion": str(pool.last_round),
            "Held-out accuracy": f"{kept.valid_accuracy:.2%}",
            "Garbage that is recognised": f"{kept.garbage_recall:.1%}",
        },
        panels=[
            table(_epoch_table(hardened.epochs)),
            strips(
                "The pool, round by round",
                "Some images of each round, at random.",
                [_round(pool, number) for number in numbers],
            ),
        ],
    )


def _epoch_table(epochs: Sequence[HardenEpoch]) -> Table:
    columns = ["Epoch", "loss", "held-out accuracy", "guard", "inversions in", "kept out", "pool"]
    rows = [
        [
            Cell(text)
            for text in (
                str(epoch.epoch),
                f"{epoch.loss:.3f}",
                f"{epoch.valid_accuracy:.2%}",
                epoch.verdict,
                f"{epoch.added:,}",
                f"{epoch.excluded:,}",
                f"{epoch.garbage:,}",
            )
        ]
        for epoch in epochs
    ]
    return Table("Epoch by epoch", columns, rows)


def _round(pool: GarbagePool, number: int) -> Strip:
    rows = (pool.rounds == number).nonzero().flatten()
    step = max(1, len(rows) // STRIP)
    images = pool.images[rows[::step][:STRIP]].float() / 255
    name = "Noise" if number == NOISE_ROUND else f"Round {number}"
    return strip(name, f"{len(rows):,} images", images, [name] * STRIP)

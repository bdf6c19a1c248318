"""The table of the audits in results/audit."""

from __future__ import annotations

from typing import Any

from formats import markdown, title
from preimage.records import Record


def audit_table(records: list[Record]) -> str:
    """A row a classifier: the three answers' figures."""
    rows = [
        [
            title(str(record["model"])),
            _percent(record["accept"]["counterfeit_share"]),
            _percent(record["accept"]["noise_share"]),
            _plain(record["ood"]["auroc"]),
            _best(record["ood"]),
            str(record["leak"]["verdict"] or "not measured"),
            f"{record['seconds']:.0f}",
        ]
        for record in records
    ]
    header = [
        *("classifier", "counterfeits, %", "noise taken, %", "AUROC, own confidence"),
        *("best baseline", "leak", "seconds"),
    ]
    return markdown(header, rows) if rows else ""


def demo_table(records: list[Record]) -> str:
    """A row a machine: from a fresh clone to the demo's page."""
    rows = [
        [
            str(record["hardware"]),
            f"{record['install_s']:.0f}",
            f"{record['parts']['inversion']:.0f}",
            f"{record['demo_s'] - record['parts']['inversion']:.0f}",
            f"{record['total_s']:.0f}",
            f"{record['page_bytes'] / 1e6:.1f}",
        ]
        for record in records
    ]
    header = ["machine", "install, s", "inversion, s", "the rest, s", "together, s", "page, MB"]
    return markdown(header, rows) if rows else ""


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{share * 100:.1f}"


def _plain(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


def _best(found: dict[str, Any]) -> str:
    if found["best_baseline"] is None:
        return "not measured"
    return f"{found['best_baseline']}, {found['best_baseline_auroc']:.3f}"

"""What a reconstruction says of a leak, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from preimage.leak.matching import WINDOW
from preimage.leak.verdict import COPIED, RECOVERED
from preimage.pages import page
from preimage.panels import Panel


def leak_page(name: str, record: Mapping[str, Any], panels: Sequence[Panel]) -> str:
    """One self-contained page.

    Args:
        name: the classifier's.
        record: what the reconstruction came to, as in metrics.json.
        panels: the similarities and the best pairs.
    """
    return page(
        f"Does '{name}' leak its training data?",
        f"{record['verdict'].capitalize()}. {record['reason']}",
        panels,
        facts={
            "Verdict": record["verdict"],
            "p-value": f"{record['p_value']:.4f}",
            "Training images recovered": str(record["recovered"]),
            "Held-out ones, by chance": str(record["recovered_control"]),
            f"Copied (similarity above {COPIED})": str(record["copied"]),
            "Held-out ones copied": str(record["copied_control"]),
            "Similarity to the nearest training image": f"{record['ssim_train']:.3f}",
            "to the nearest held-out image": f"{record['ssim_control']:.3f}",
            **_membership_fact(record["membership"]),
        },
        notes=[
            f"Similarity is SSIM with a uniform window of {WINDOW} pixels; above {RECOVERED} an "
            "image counts as recovered, and each only once.",
            f"{record['images_each']} training and as many held-out images were compared. The "
            "p-value is the share of random divisions of all of them that differ as much.",
            f"The classifier puts {record['accepted']:.1%} of the reconstructions in their class.",
            f"{record['unmixed']} came out of the weights of a dense first layer, the others were "
            "looked for.",
            *_membership_note(record["membership"]),
        ],
    )


def _membership_fact(found: Mapping[str, Any] | None) -> dict[str, str]:
    return (
        {"Told from held-out ones by the first layer (AUROC)": f"{found['auroc']:.3f}"}
        if found
        else {}
    )


def _membership_note(found: Mapping[str, Any] | None) -> list[str]:
    if not found or not found["directions"]:
        return []
    return [
        f"Training wrote {found['directions']} directions into the dense first layer. Training "
        f"images lie outside of them by {found['outside_train']:.1%} of their length, held-out "
        f"ones by {found['outside_control']:.1%} (AUROC {found['auroc']:.3f}, "
        f"p = {found['p_value']:.4f}). So well do the weights alone tell whether an image was "
        "trained on; 0.5 is guessing. It is no part of the verdict, which is about reconstructions."
    ]

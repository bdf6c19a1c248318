"""What a reconstruction says of a leak, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from preimage.leak.matching import WINDOW
from preimage.leak.verdict import COPIED, RECOVERED
from preimage.pages import as_sentence, page
from preimage.panels import Panel


def leak_page(name: str, record: Mapping[str, Any], panels: Sequence[Panel]) -> str:
    """One self-contained page.

    Args:
        name: the classifier's.
        record: what the reconstruction came to, as in reconstruct.json.
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
            "Effect size (d_z)": f"{record['effect']:.2f}",
            **_told_fact("the first layer", record["membership"]),
            **_told_fact("its loss", record["membership_loss"]),
        },
        notes=[
            *map(as_sentence, record["warnings"]),
            f"Similarity is SSIM with a uniform window of {WINDOW} pixels; above {RECOVERED} an "
            "image counts as recovered, and each only once. The sentence at the top counts "
            "reconstructions, of which several may resemble the same image.",
            f"{record['images_each']} training and as many held-out images were compared. The "
            "p-value is twice the smaller share of random divisions of all of them that differ as "
            f"much, in the mean similarity or in the number above {RECOVERED}.",
            "The reconstructions' nearest similarities to both groups differ by "
            f"{record['ssim_train'] - record['ssim_control']:+.3f} on average, with an interval of "
            f"{_interval(record['interval'])} (95 %, over the reconstructions; what other images "
            "of both groups would give, the p-value tells).",
            f"The classifier puts {record['accepted']:.1%} of the reconstructions in their class.",
            f"{record['unmixed']} came out of the weights of a dense first layer, and their class "
            "is the classifier's answer; the others were looked for.",
            *_features_note(record["by_features"]),
            *_membership_note(record["membership"]),
            *_loss_note(record["membership_loss"]),
        ],
    )


def _interval(ends: Sequence[float]) -> str:
    low, high = ends
    return f"{low:+.3f} to {high:+.3f}"


def _told_fact(by: str, found: Mapping[str, Any] | None) -> dict[str, str]:
    return {f"Told from held-out ones by {by} (AUROC)": f"{found['auroc']:.3f}"} if found else {}


def _features_note(found: Mapping[str, Any] | None) -> list[str]:
    if not found:
        return []
    return [
        "By the evaluator's features (cosine) reconstructions resemble the training images of "
        f"their class by {found['matched_train']:.3f} on average and held-out ones by "
        f"{found['matched_control']:.3f}, each image matched only once. That is no part of the "
        "verdict: an evaluator mostly knows the training images and not the others."
    ]


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


def _loss_note(found: Mapping[str, Any] | None) -> list[str]:
    if not found:
        return []
    return [
        f"The cross-entropy of training images is {found['loss_train']:.3g} on average, that of "
        f"held-out ones {found['loss_control']:.3g} (AUROC {found['auroc']:.3f}, "
        f"p = {found['p_value']:.4f}). So well does the loss alone tell whether an image was "
        "trained on, which is overfitting; it is no part of the verdict."
    ]

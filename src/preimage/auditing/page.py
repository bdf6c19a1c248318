"""The audit's page: whether the classifier does its task, three answers, and the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from preimage.auditing.answers import Answer
from preimage.gallery import render
from preimage.leak.verdict import COPIED

_TITLES = {
    "accept": "What does it accept?",
    "ood": "Does it know what it doesn't know?",
    "leak": "Does it leak its training data?",
}
_FIGURES: dict[str, dict[str, tuple[str, str]]] = {
    "accept": {
        "inversion_accuracy": ("Inversion accuracy", "{:.1%}"),
        "evaluator_accuracy": ("Accuracy by an independent classifier", "{:.1%}"),
        "counterfeit_share": ("Confident counterfeits", "{:.1%}"),
        "noise_share": ("Noise taken with confidence", "{:.1%}"),
        "vendi_pixel": ("Vendi score per class, pixels", "{:.2f}"),
        "vendi_pixel_real": ("the same of real images", "{:.2f}"),
        "coverage": ("Coverage of real images", "{:.1%}"),
        "boundary_distance": ("Distance to the nearest boundary, pixels (median)", "{:.2f}"),
    },
    "ood": {
        "auroc": ("Mean AUROC, own confidence", "{:.3f}"),
        "fpr95": ("Mean FPR95, own confidence", "{:.1%}"),
        "best_baseline": ("Best baseline", "{}"),
        "best_baseline_auroc": ("its mean AUROC", "{:.3f}"),
        "hardened_auroc": ("Mean AUROC, hardened", "{:.3f}"),
        "hardened_accuracy": ("Accuracy, hardened", "{:.2%}"),
        "plain_accuracy": ("Accuracy as it is", "{:.2%}"),
    },
    "leak": {
        "verdict": ("Verdict", "{}"),
        "recovered": ("Training images recovered", "{}"),
        "recovered_control": ("Held-out ones, by chance", "{}"),
        "copied": (f"Training images copied, similarity above {COPIED}", "{}"),
        "copied_control": ("Held-out ones copied", "{}"),
        "ssim_train": ("Similarity to the nearest training image", "{:.3f}"),
        "ssim_control": ("to the nearest held-out image", "{:.3f}"),
        "effect": ("Effect size", "{:.2f}"),
        "membership_auroc": ("Told from held-out ones by the first layer (AUROC)", "{:.3f}"),
        "membership_loss_auroc": ("Told from held-out ones by its loss (AUROC)", "{:.3f}"),
    },
}


def audit_page(
    record: dict[str, Any],
    answers: Sequence[Answer],
    entries: Sequence[dict[str, Any]],
    waiting: Sequence[str],
) -> str:
    """One self-contained page.

    Args:
        record: the audit's, as in audit.json.
        answers: the three of the first screen.
        entries: what each part left, in order.
        waiting: names of the parts that are still to be done; empty at the end.
    """
    panels = [panel for entry in entries for panel in entry["panels"]]
    for i, panel in enumerate(panels):
        panel["id"] = i
    return render(
        "audit.html",
        title=f"Audit of {record['model']}",
        record=record,
        premise=record.get("premise"),
        answers=list(answers),
        waiting=waiting,
        sections=[_section(name, record, entries) for name in _TITLES],
        limits=_limits(record),
    )


def _section(
    name: str, record: dict[str, Any], entries: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    own = [entry for entry in entries if entry["question"] == name]
    return {
        "id": name,
        "title": _TITLES[name],
        "facts": _facts(name, record[name]),
        "panels": [panel for entry in own for panel in entry["panels"]],
        "notes": [note for entry in own for note in entry["notes"]],
        "missing": [(e["name"], e["state"], e["reason"]) for e in own if e["reason"] is not None],
    }


def _facts(name: str, found: dict[str, Any]) -> dict[str, str]:
    return {
        title: form.format(found[key])
        for key, (title, form) in _FIGURES[name].items()
        if found[key] is not None
    }


def _limits(record: dict[str, Any]) -> list[str]:
    """What the figures do not say."""
    found = [
        "Inversions show some of what the classifier accepts. That something is not among them "
        "does not mean that it would be refused.",
        "A detector that tells these unknown sets may miss others.",
    ]
    if not record["data_split"]:
        found.append(
            f"The data set '{record['data']}' has no splits. Where its images were trained on, the "
            "figures on real images look better than they are: give new ones with --heldout."
        )
    if record["leak"]["verdict"] == "no evidence of a leak":
        found.append(
            "No evidence of a leak after this search is not a proof that there is none: a longer "
            "or another attack may find one."
        )
    if record["seconds"] > 1.2 * record["budget_s"]:
        found.append("The work took longer than was planned; figures are not affected by that.")
    return found

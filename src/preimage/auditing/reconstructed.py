"""What a reconstruction says of a leak, as figures of an audit. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preimage.auditing.record import FORMAT, empty_sections, fill
from preimage.errors import PreimageError
from preimage.run import RunFolder
from preimage.settings import EVALUATOR, IMAGES

_SAME_NAME = (
    *("verdict", "reason", "p_value", "effect", "interval", "images_each"),
    *("recovered", "recovered_control", "copied", "copied_control", "unmixed"),
    *("ssim_train", "ssim_control"),
)


def leak_figures(result: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The leak section.

    Args:
        result: what `preimage reconstruct --json` prints.
        config: the reconstruction's settings.
    """
    # a run of an earlier version did not count everything
    member = result.get("membership") or {}
    return {
        **{name: result.get(name) for name in _SAME_NAME},
        **{f"membership_{name}": member.get(name) for name in ("auroc", "p_value")},
        "membership_loss_auroc": (result.get("membership_loss") or {}).get("auroc"),
        "accuracy": result["target_accuracy"],
        "reconstructions": config["images"],
        "steps": config["steps"],
    }


def contents(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Digests of what a run was made with beside its classifier, by what it is."""
    return {
        "the evaluator": settings[EVALUATOR],
        **{
            f"the {name.replace('_', ' ')} images": digest
            for name, digest in settings[IMAGES].items()
        },
    }


def read_reconstruction(path: Path) -> dict[str, Any] | None:
    """A run of `preimage reconstruct` as the audit that measured nothing else.

    Returns:
        The record; None where `path` holds no such run.

    Raises:
        PreimageError: where the run is not finished, or damaged.
    """
    try:
        folder = RunFolder.open(path, "reconstruct")
    except PreimageError:
        return None
    result, settings = folder.metrics(), folder.settings["config"]
    sections = empty_sections()
    try:
        fill(sections["leak"], leak_figures(result, settings["config"]))
        given = {name: result[name] for name in ("classes", "seed", "seconds")}
        named = {"model": settings["model"]["model"], "data": result["dataset"]}
        named |= {name: settings["control"][name] for name in ("heldout", "evaluator", "most")}
        named |= {name: settings["config"][name] for name in ("carrier", "start")}
        named |= {"contents": contents(settings), "versions": folder.versions()}
    except (KeyError, TypeError, AttributeError) as error:
        raise PreimageError(
            f"expected a whole reconstruction, found a damaged one in '{path}'; restore it, or "
            "make it again with --overwrite"
        ) from error
    return {"format": FORMAT, **named, **given, "budget_s": None, "image": None, **sections}

"""`preimage show`: what is known of a run or a classifier."""

from __future__ import annotations

import difflib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from preimage import zoo
from preimage.errors import PreimageError
from preimage.run import RunFolder


def show_job(source: str) -> dict[str, Any]:
    """Read a bundled classifier's card or a run folder.

    Raises:
        PreimageError: when there is neither of that name.
    """
    if source in zoo.bundled():
        from preimage.zoo.cards import read_card

        return {"classifier": source, **asdict(read_card(zoo.weights(source)))}
    if Path(source).is_dir():
        return _run(RunFolder.open(source))
    near = difflib.get_close_matches(source, zoo.bundled(), n=1)
    guess = f"did you mean '{near[0]}'? Otherwise " if near else ""
    raise PreimageError(
        f"expected a run folder or a bundled classifier, found neither at '{source}'; {guess}"
        f"bundled are {', '.join(zoo.bundled())}"
    )


def _run(folder: RunFolder) -> dict[str, Any]:
    log = folder.metrics_log()
    values: dict[str, Any] = {"run": folder.settings["kind"], **folder.settings["config"]}
    if folder.finished:
        return {**values, "result": folder.metrics()}
    return {**values, "unfinished after": log[-1]["step"] if log else 0}

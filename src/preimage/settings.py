"""The settings that a run folder holds, and whether they are those that a command asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preimage.errors import PreimageError
from preimage.files import read_json

FORMAT = 1
"""Version of the run folder's form: {"format", "kind", "config"} in config.json."""

WEIGHTS = "weights"
"""Among the settings: what tells a classifier from others of its name; see `classifier_digest`."""

IMAGES = "images"
"""Among the settings: what tells the data's content from others of its name, by the set's role; see
`images_digests`. A set that is not at hand now is not compared, so that what came of a finished run
can be read where the data are not. One that was not at hand when the run was made is: the run lacks
what it would have told."""

EVALUATOR = "evaluator_weights"
"""Among the settings: what tells an evaluator from others of its name. Runs of before have no note
of it."""

CODE = "code"
"""Among the settings: what tells a user's own code from what it was, by its name or role; see
`code_digests`. Runs of before have no note of it; where there is no source nothing is compared."""

_CLASSIFIERS = {WEIGHTS: "classifier", EVALUATOR: "evaluator"}

PRECISION = "compute_precision"
"""Among the settings: in what numbers is computed. Runs of before have no note of it."""

_MAY_LACK = (IMAGES, PRECISION, EVALUATOR, CODE)

Settings = dict[str, Any]


def read_settings(file: Path) -> Settings:
    """A run's settings, of whatever version.

    Raises:
        PreimageError: when the file is damaged or no run's.
    """
    settings = read_json(file)
    whole = isinstance(settings, dict) and {"format", "kind", "config"} <= settings.keys()
    if not whole or not isinstance(settings["config"], dict):
        raise PreimageError(
            f"expected a run folder, found a {file.name} that no run wrote in '{file.parent}'; "
            "choose another folder"
        )
    return settings


def check_version(settings: Settings, folder: Path) -> None:
    """Refuse a run of another version.

    Raises:
        PreimageError: when it is one.
    """
    if settings["format"] != FORMAT:
        raise PreimageError(
            f"expected a run folder of version {FORMAT}, found version {settings['format']} in "
            f"'{folder}'; use the preimage that wrote it, or choose another folder with --out"
        )


def check_kind(settings: Settings, kind: str, folder: Path) -> None:
    """Refuse a run of another kind, such as "train" for "invert".

    Raises:
        PreimageError: when it is one.
    """
    if settings["kind"] != kind:
        raise PreimageError(
            f"expected a run of `preimage {kind}`, found one of `preimage {settings['kind']}` "
            f"in '{folder}'; choose another folder"
        )


def check_equal(there: Settings, here: Settings, folder: Path) -> None:
    """Refuse to go on with a run under other settings.

    Raises:
        PreimageError: naming the first few that differ.
    """
    check_kind(there, here["kind"], folder)
    differing = sorted(_differences(there["config"], here["config"]))
    if differing:
        raise PreimageError(
            f"expected '{folder}' to hold a run with the same settings, found one with "
            f"{', '.join(differing[:3])}; choose another folder with --out, or replace it with "
            "--overwrite"
        )


def _differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """What differs, such as "seed 0 instead of 1"; nested settings by their dotted names."""
    untold = there is None or here is None
    if untold and (name in _MAY_LACK or name.startswith(f"{CODE}.")):
        return
    if name.startswith(f"{IMAGES}.") and here is None:
        return
    if isinstance(there, dict) and isinstance(here, dict):
        for key in there.keys() | here.keys():
            dotted = f"{name}.{key}".strip(".")
            if name == IMAGES and key not in there:
                continue  # a run of before has no note of this set
            yield from _differences(there.get(key), here.get(key), dotted)
    elif there != here and name in _CLASSIFIERS:
        yield _other_classifier(there, _CLASSIFIERS[name])
    elif there != here and name.startswith(f"{IMAGES}."):
        kind = "no" if there is None else "other"
        yield f"{kind} {name.removeprefix(f'{IMAGES}.')} images under the name of the data"
    elif there != here and name.startswith(f"{CODE}."):
        yield f"other code of {name.removeprefix(f'{CODE}.')}"
    elif there != here:
        yield f"{name.removeprefix('config.')} {_brief(there)} instead of {_brief(here)}"


def _other_classifier(there: Any, what: str) -> str:
    """Two digests would tell a person nothing."""
    if there is None:
        return f"no note of the {what}'s weights"
    return f"other weights, normalisation or class names of the {what}"


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."

"""The data sets that have a name of their own. A new one is one line of the table."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from preimage.data.hub import HubSet
from preimage.data.local import parquet_source
from preimage.data.sources import Source
from preimage.errors import PreimageError


@dataclass(frozen=True)
class KnownSet:
    """Where a named data set is kept."""

    hub_id: str | None
    """owner/name on the Hugging Face hub; None where there is no official copy."""
    config: str | None = None
    label: str | None = None
    """Label column, where the set has several."""
    origin: str = ""
    """Where people get it when the hub does not have it."""


KNOWN: dict[str, KnownSet] = {
    "mnist": KnownSet("ylecun/mnist"),
    "fashion_mnist": KnownSet("zalando-datasets/fashion_mnist"),
    "svhn": KnownSet("ufldl-stanford/svhn", config="cropped_digits"),
    "cifar10": KnownSet("uoft-cs/cifar10"),
    "cifar100": KnownSet("uoft-cs/cifar100", label="fine_label"),
    "gtsrb": KnownSet(None, origin="https://benchmark.ini.rub.de"),
}
"""Known sets by name; the name is also that of the folder in $PREIMAGE_DATA."""


def known_name(source: str) -> str:
    """The spelling that known names are compared in: Fashion-MNIST is fashion_mnist."""
    return source.lower().replace("-", "_")


def same_source(one: str, other: str) -> bool:
    """Whether two texts name one source of images."""
    return _identity(one) == _identity(other)


def _identity(source: str) -> str:
    """Known names first, as where they are loaded; a path then, and the spelling at last."""
    path = Path(source).expanduser()
    known = known_name(source) in KNOWN
    return str(path.resolve()) if path.exists() and not known else known_name(source)


def known_source(source: str) -> Source | None:
    """A known name: its folder in $PREIMAGE_DATA, else its copy on the hub."""
    name = known_name(source)
    known = KNOWN.get(name)
    if known is None:
        return None
    data = os.environ.get("PREIMAGE_DATA")
    if data:
        # a copy of a whole hub repository has a sub-folder for each configuration
        for folder in (Path(data) / name / (known.config or ""), Path(data) / name):
            if any(folder.glob("**/*.parquet")):
                return parquet_source(folder, name, known.label)
    hint = (
        f"put {name}/train-*.parquet and {name}/test-*.parquet (columns image and label) in a "
        "folder and set PREIMAGE_DATA to that folder"
    )
    if known.hub_id is None:
        raise PreimageError(f"{name} is not on the hub: get it from {known.origin}, then {hint}")
    return HubSet(known.hub_id, known.config, name, hint, known.label).source()

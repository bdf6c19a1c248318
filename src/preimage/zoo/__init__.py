"""Reference classifiers: architectures, and trained weights that come with the package."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"


def bundled() -> tuple[str, ...]:
    """Names of the bundled classifiers: a data set's name, or that name and ``-evaluator``."""
    return tuple(sorted(path.stem for path in WEIGHTS.glob("*.safetensors")))


def weights(name: str) -> Path:
    """File of the bundled classifier `name`, whether or not it exists."""
    return WEIGHTS / f"{name}.safetensors"

"""Invert any image classifier: learn the whole set of inputs that it puts in each class.

>>> import preimage
>>> inversion = preimage.invert(model, image=(3, 32, 32))
>>> sample = inversion.sample([0, 1, 2], seed=0)

Everything is imported where it is first used, so that the command line answers at once.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from preimage.auditing.api import AuditResult, audit
    from preimage.classifier import Classifier
    from preimage.config import (
        PRESETS,
        GeneratorConfig,
        InvertConfig,
        ModelConfig,
        Runtime,
        TrainConfig,
    )
    from preimage.data import ImageSet, load
    from preimage.errors import DiskError, DivergedError, PreimageError
    from preimage.inversion import Inversion
    from preimage.loop import invert
    from preimage.losses import Objective, WeightedTerm
    from preimage.metrics import Metrics, evaluate
    from preimage.sources import load_classifier
    from preimage.training import train
    from preimage.types import Condition, ImageSpec, Prediction, Sample

    __version__: str

_HOMES = {
    "auditing.api": ("AuditResult", "audit"),
    "classifier": ("Classifier",),
    "config": (
        "PRESETS",
        "GeneratorConfig",
        "InvertConfig",
        "ModelConfig",
        "Runtime",
        "TrainConfig",
    ),
    "data": ("ImageSet", "load"),
    "errors": ("DiskError", "DivergedError", "PreimageError"),
    "inversion": ("Inversion",),
    "loop": ("invert",),
    "losses": ("Objective", "WeightedTerm"),
    "metrics": ("Metrics", "evaluate"),
    "sources": ("load_classifier",),
    "training": ("train",),
    "types": ("Condition", "ImageSpec", "Prediction", "Sample"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "PRESETS",
    "AuditResult",
    "Classifier",
    "Condition",
    "DiskError",
    "DivergedError",
    "GeneratorConfig",
    "ImageSet",
    "ImageSpec",
    "Inversion",
    "InvertConfig",
    "Metrics",
    "ModelConfig",
    "Objective",
    "Prediction",
    "PreimageError",
    "Runtime",
    "Sample",
    "TrainConfig",
    "WeightedTerm",
    "__version__",
    "audit",
    "evaluate",
    "invert",
    "load",
    "load_classifier",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("preimage")
    if name not in _HOME:
        raise AttributeError(f"module 'preimage' has no attribute '{name}'")
    return getattr(importlib.import_module(f"preimage.{_HOME[name]}"), name)

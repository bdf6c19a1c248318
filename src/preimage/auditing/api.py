"""The audit from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from preimage.auditing.job import PAGE_FILE, audit_job
from preimage.classifier import Classifier
from preimage.commands import Audit, Output
from preimage.config import ModelConfig, Runtime
from preimage.errors import PreimageError
from preimage.jobs.report import Reporter
from preimage.run import folder_name
from preimage.types import ImageSpec


@dataclass(frozen=True)
class AuditResult:
    """A finished audit."""

    record: dict[str, Any]
    """As in audit.json."""
    folder: Path
    """Run folder."""

    @property
    def page(self) -> Path:
        """The page to open."""
        return self.folder / PAGE_FILE


def audit(
    model: Classifier | nn.Module | str,
    *,
    image: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    data: str | Path | None = None,
    heldout: str | Path | None = None,
    ood: Sequence[str | Path] = (),
    evaluator: str | None = None,
    budget: str = "5m",
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
    runtime: Runtime | None = None,
    report: Reporter | None = None,
) -> AuditResult:
    """Audit a classifier: what it accepts, whether it knows what it doesn't know, whether it leaks.

    Args:
        model: a module from images (B, C, H, W) to logits (B, K), a :class:`Classifier`, or the
            name of one as on the command line. It is not changed.
        image: (channels, height, width) of one image, for a plain module.
        mean: per-channel mean that the plain module's input is centred by, in [0, 1] units.
        std: per-channel standard deviation, likewise.
        class_names: for a plain module; None names classes by number.
        data: data set that the model was trained for; see :func:`preimage.load`.
        heldout: other data of the same kind, in place of the test split.
        ood: data sets of anything else.
        evaluator: name of an independent classifier of the same classes.
        budget: time for all of it, such as 90s, 5m or 2h.
        seed: everything random follows from it.
        out: run folder; None takes one under runs/.
        overwrite: replace the audit that is in the folder, instead of going on with it.
        runtime: device and precision.
        report: hears of progress.

    Raises:
        PreimageError: for a model, data, a budget or a folder that do not fit.
    """
    classifier = None if isinstance(model, str) else _wrapped(model, image, mean, std, class_names)
    # no bundled classifier's name: its data would be taken for this one's
    name = model if isinstance(model, str) else f"module:{folder_name(type(model).__name__)}"
    command = Audit(
        ModelConfig(name),
        data=None if data is None else str(data),
        heldout=None if heldout is None else str(heldout),
        ood=tuple(map(str, ood)),
        evaluator=evaluator,
        budget=budget,
        seed=seed,
        runtime=runtime or Runtime(),
        output=Output(out=None if out is None else str(out), overwrite=overwrite),
    )
    record, folder = audit_job(command, report, classifier=classifier)
    return AuditResult(record, folder)


def _wrapped(
    model: Classifier | nn.Module,
    image: Sequence[int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    class_names: Sequence[str] | None,
) -> Classifier:
    if isinstance(model, Classifier):
        return model
    if image is None:
        raise PreimageError(
            f"expected the image shape of '{type(model).__name__}', found none; give it as "
            "image=(channels, height, width)"
        )
    spec = ImageSpec(*image)
    name = type(model).__name__
    return Classifier(model, spec, mean=mean, std=std, class_names=class_names, name=name)

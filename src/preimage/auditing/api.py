"""The audit from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    checkpoint: str | Path | None = None,
    classes: int | None = None,
    data: str | Path | None = None,
    heldout: str | Path | None = None,
    ood: str | Path | Sequence[str | Path] = (),
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
        image: (channels, height, width) of one image, for a plain module, or a name whose model
            does not say.
        mean: per-channel mean that the input of the plain module or of the named one is centred
            by, in [0, 1] units.
        std: per-channel standard deviation, likewise.
        class_names: one for each output, for a plain module or a name whose model does not say;
            None names classes by number. Beside a name also a text as for --class-names.
        checkpoint: weights for the name of a factory, a torchvision or a timm network.
        classes: class count of a torchvision or timm network, where it is not the library's own.
        data: data set that the model was trained for; see :func:`preimage.load`.
        heldout: other data of the same kind, in place of the test split.
        ood: data sets of anything else, or one.
        evaluator: name of an independent classifier of the same classes.
        budget: time for all of it, such as 90s, 5m or 2h.
        seed: everything random follows from it.
        out: run folder; None takes one under runs/.
        overwrite: replace the audit that is in the folder, instead of going on with it.
        runtime: device and precision.
        report: hears of progress.

    Raises:
        PreimageError: for a model, data, a budget or a folder that do not fit, and for a setting
            that the model decides itself.
    """
    # no bundled classifier's name for a module: its data would be taken for this one's
    name = model if isinstance(model, str) else f"module:{folder_name(type(model).__name__)}"
    asked = ModelConfig(
        name,
        checkpoint=None if checkpoint is None else str(checkpoint),
        image=None if image is None else ImageSpec.of(image).shape,
        mean=_numbers(mean),
        std=_numbers(std),
        classes=classes,
    )
    if isinstance(model, str):
        classifier, config = None, replace(asked, class_names=_listed(class_names))
    else:
        classifier, config = _wrapped(model, asked, class_names), ModelConfig(name)
    command = Audit(
        config,
        data=None if data is None else str(data),
        heldout=None if heldout is None else str(heldout),
        ood=(str(ood),) if isinstance(ood, str | Path) else tuple(map(str, ood)),
        evaluator=evaluator,
        budget=budget,
        seed=seed,
        runtime=runtime or Runtime(),
        output=Output(out=None if out is None else str(out), overwrite=overwrite),
    )
    record, folder = audit_job(command, report, classifier=classifier)
    return AuditResult(record, folder)


_ANEW = "wrap the network anew with it, or leave it out"
_BEFORE = "give the network with its weights in it, or a name that it can be built by"


def _wrapped(
    model: Classifier | nn.Module, asked: ModelConfig, class_names: Sequence[str] | None
) -> Classifier:
    of_names = {"checkpoint": asked.checkpoint, "classes": asked.classes}
    inner = {"image": asked.image, "mean": asked.mean, "std": asked.std, "class_names": class_names}
    if isinstance(model, Classifier):
        _refuse("a Classifier, which has its own", _ANEW, **inner, **of_names)
        return model
    _refuse("a network, which has its own", _BEFORE, **of_names)
    if asked.image is None:
        raise PreimageError(
            f"expected the image shape of '{type(model).__name__}', found none; give it as "
            "image=(channels, height, width)"
        )
    spec = ImageSpec(*asked.image)
    name = type(model).__name__
    return Classifier(
        model, spec, mean=asked.mean, std=asked.std, class_names=class_names, name=name
    )


def _refuse(beside: str, advice: str, **settings: Any) -> None:
    """Say so when a setting is given that would not be used."""
    for name, value in settings.items():
        if value is not None:
            raise PreimageError(f"expected no {name} beside {beside}, found {value}; {advice}")


def _listed(names: Sequence[str] | None) -> str | None:
    """As --class-names takes them."""
    if names is None or isinstance(names, str):
        return names
    if any("," in name for name in names):
        raise PreimageError(
            "expected class names without commas beside a model's name, found some with; give "
            "preimage.Classifier(network, ..., class_names=...) in place of the name"
        )
    return ",".join(names)


def _numbers(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)

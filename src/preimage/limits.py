"""Ranges of settings, told before any work is begun."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args, get_origin, get_type_hints

from preimage.config import HardenConfig, InvertConfig, ReconstructConfig, TrainConfig
from preimage.errors import PreimageError

_ABOVE_ZERO = 1e-12
_SEED = 2**63 - 1
_MANY = 2**31 - 1
"""Of anything that is counted, far more than there is memory or time for."""

SAYS = (
    *("kl", "ce", "kl_noise", "ce_noise", "kl_adversarial", "ce_adversarial"),
    *("cosine", "orthogonality", "smoothness", "pixels", "gradient", "stationarity"),
)
"""Terms of a reconstruction, which its settings have as fields."""

Range = tuple[float | int, float | int]
_AUGMENTATION: dict[str, Range] = {
    "shift": (0, math.inf),
    "rotate": (0, 360),
    "scale": (0, 0.9),
    "contrast": (0, 1),
}


def check_invert(config: InvertConfig) -> None:
    """Refuse an inversion whose settings are out of range.

    Raises:
        PreimageError: naming the first that is.
    """
    _check(
        {**vars(config), **vars(config.generator), **vars(config.view)},
        {
            **_AUGMENTATION,
            "width": (1, math.inf),
            "latent": (1, math.inf),
            "dropout": (0, 0.99),
            "stretch": (0, 1),
            "steps": (1, math.inf),
            "members": (1, math.inf),
            "batch": (2, math.inf),
            "check_every": (1, math.inf),
            "patience": (1, math.inf),
            "lr": (_ABOVE_ZERO, math.inf),
            "spread": (0, math.inf),
            "margin": (0, math.inf),
            "stop_at": (0, math.inf),
            "seed": (-_SEED, _SEED),
        },
    )
    if config.members > max(1, config.steps - 1):
        raise PreimageError(
            f"expected --members fewer than the {config.steps} steps, found {config.members}; "
            "each needs a step of its own and the first two"
        )


def check_count(count: int) -> None:
    """Refuse to draw fewer than one image.

    Raises:
        PreimageError: for a count below 1.
    """
    _check({"count": count}, {"count": (1, math.inf)})


def check_measure(samples: int, student_steps: int) -> None:
    """Refuse to judge fewer than one sample, or to train a student for less than a step.

    Raises:
        PreimageError: for a count below 1.
    """
    least = (1, math.inf)
    counts = {"samples": samples, "student_steps": student_steps}
    _check(counts, dict.fromkeys(counts, least))


def check_train(config: TrainConfig) -> None:
    """Refuse a training whose settings are out of range.

    Raises:
        PreimageError: naming the first that is.
    """
    _check_choices(config)
    _check(
        {**vars(config), **vars(config.augmentation), **vars(config.fitting)},
        {
            "width": (1, math.inf),
            "first_scale": (_ABOVE_ZERO, math.inf),
            "dropout": (0, 0.99),
            "label_smoothing": (0, 1),
            "stop_loss": (0, math.inf),
            "dp_noise": (_ABOVE_ZERO, math.inf),
            "dp_clip": (_ABOVE_ZERO, math.inf),
            "epochs": (1, math.inf),
            "batch": (2, math.inf),
            "lr": (_ABOVE_ZERO, math.inf),
            "weight_decay": (0, math.inf),
            **_AUGMENTATION,
            "seed": (-_SEED, _SEED),
        },
    )


def check_harden(config: HardenConfig) -> None:
    """Refuse a hardening whose settings are out of range.

    Raises:
        PreimageError: naming the first that is.
    """
    _check_choices(config)
    _check(
        vars(config),
        {
            "noise": (1, math.inf),
            "garbage": (config.noise, math.inf),
            "gain": (0, math.inf),
            "rounds": (0, math.inf),
            "share": (_ABOVE_ZERO, 1),
            "weight": (_ABOVE_ZERO, math.inf),
            "inversion_steps": (1, math.inf),
            "inversion_batch": (2, math.inf),
            "inversion_beta": (0, math.inf),
            "inversion_lr": (_ABOVE_ZERO, math.inf),
            "valid": (1, math.inf),
            "margin": (0, 1),
            "patience": (0, math.inf),
        },
    )


def check_tpr(tpr: float | None) -> None:
    """Refuse a share of known images to let through that is none.

    Raises:
        PreimageError: for one that is not above 0 and up to 1.
    """
    _check({"tpr": tpr}, {"tpr": (_ABOVE_ZERO, 1)})


def check_control(most: int) -> None:
    """Refuse to compare with no image.

    Raises:
        PreimageError: for a count below 1.
    """
    _check({"most": most}, {"most": (1, math.inf)})


def check_seed(seed: int) -> None:
    """Refuse a seed that no generator of random numbers takes.

    Raises:
        PreimageError: for one out of range.
    """
    _check({"seed": seed}, {"seed": (-_SEED, _SEED)})


def check_reconstruct(config: ReconstructConfig) -> None:
    """Refuse a reconstruction whose settings are out of range.

    Raises:
        PreimageError: naming the first that is, or for no term with a say.
    """
    _check_choices(config)
    numbers = {name: value for name, value in vars(config).items() if not isinstance(value, str)}
    says = dict.fromkeys(SAYS, (0, math.inf))
    _check(
        numbers,
        {
            "images": (2, math.inf),
            "steps": (1, math.inf),
            "lr": (_ABOVE_ZERO, math.inf),
            "epsilon": (0, 1),
            "sharpness": (_ABOVE_ZERO, math.inf),
            **says,
            "seed": (-_SEED, _SEED),
        },
    )
    if not any(numbers[name] for name in SAYS):
        raise PreimageError(
            "expected at least one term with a say above 0, found none; raise --stationarity"
        )


def _check_choices(config: object) -> None:
    """Refuse a word that is none of those that a setting's type names."""
    for name, kind in get_type_hints(type(config)).items():
        if get_origin(kind) is Literal and getattr(config, name) not in get_args(kind):
            raise PreimageError(
                f"expected --{name.replace('_', '-')} out of {', '.join(get_args(kind))}, found "
                f"'{getattr(config, name)}'; choose one of those"
            )


def _check(values: Mapping[str, float | int | None], ranges: Mapping[str, Range]) -> None:
    for name, (least, most) in ranges.items():
        value = values[name]
        bound = _MANY if most == math.inf and isinstance(value, int) else most
        if value is None or (least <= value <= bound and value != math.inf):
            continue
        wanted = _within(least, most if value < least else bound)
        raise PreimageError(
            f"expected --{name.replace('_', '-')} {wanted}, found {str(value)[:30]}; change it"
        )


def _within(least: float, most: float) -> str:
    """A range in words."""
    if least == _ABOVE_ZERO:
        return "above 0" if most == math.inf else f"above 0 and up to {most}"
    return f"of at least {least}" if most == math.inf else f"from {least} to {most}"

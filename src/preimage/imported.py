"""A user's own conditioning scheme or generator, tried once before anything is learnt with it.

Both are classes named ``package.module:Class`` in the settings; so are loss terms, of which
`preimage.losses` takes care.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from preimage.errors import PreimageError
from preimage.plugins import import_attribute
from preimage.types import Condition, ImageSpec

SCHEME, GENERATOR = "conditioning scheme", "generator"


def build_scheme(
    name: str, classes: int, size: tuple[int, int], spread: float, margin: float
) -> Any:
    """Build the class ``(classes, size, spread, margin)`` under `name`, and draw two conditions.

    Raises:
        PreimageError: where it cannot be imported, or is no :class:`preimage.conditioning.Scheme`.
    """
    labels = torch.tensor([0, classes - 1])

    def build(builder: Callable[..., Any]) -> Any:
        scheme = builder(classes, size, spread, margin)
        sizes = (scheme.classes, scheme.vector_size, scheme.plane_count)
        condition = scheme(labels, torch.Generator().manual_seed(0))
        _check_condition(name, condition, sizes, size)
        return scheme

    advice = "give it the members of preimage.conditioning.Scheme"
    return _built(name, SCHEME, build, f"for {classes} classes", advice)


def build_generator(name: str, spec: ImageSpec, scheme: Any, config: Any) -> Any:
    """Build the class ``(spec, scheme, config)`` under `name`, and draw two images.

    Raises:
        PreimageError: where it cannot be imported, or is no
            :class:`preimage.generator.ImageGenerator`.
    """
    labels = torch.tensor([0, scheme.classes - 1])
    random = torch.Generator().manual_seed(0)

    def build(builder: Callable[..., Any]) -> Any:
        generator = builder(spec, scheme, config)
        # a copy: the one that learns starts from weights of the run's seed
        tried = copy.deepcopy(generator)
        noise = tried.noise(len(labels), random)
        _check_parts(name, tried.restart(random))
        with torch.no_grad():
            images = tried.eval()(noise, scheme(labels, random))
        _check_images(name, images, spec)
        return generator

    advice = "derive it from preimage.generator.ImageGenerator"
    return _built(name, GENERATOR, build, f"for images {spec}", advice)


def _built(
    name: str, what: str, build: Callable[[Callable[..., Any]], Any], where: str, advice: str
) -> Any:
    """What `build` makes of the class; whatever its code raises becomes one sentence."""
    builder = import_attribute(name, what)
    if not callable(builder):
        raise PreimageError(
            f"expected a class for the {what} '{name}', found {type(builder).__name__}; {advice}"
        )
    try:
        return build(builder)
    except PreimageError:
        raise
    except Exception as error:
        raise PreimageError(
            f"expected the {what} '{name}' to work {where}, found {type(error).__name__}: {error}; "
            f"{advice}"
        ) from error


def _check_condition(
    name: str, condition: Any, sizes: tuple[int, int, int], size: tuple[int, int]
) -> None:
    if not isinstance(condition, Condition):
        raise PreimageError(
            f"expected the {SCHEME} '{name}' to give a preimage.Condition, found "
            f"{type(condition).__name__}; return one"
        )
    classes, vector, planes = sizes
    wanted = {
        "label": (2,),
        "target": (2, classes),
        "vector": (2, vector) if vector else None,
        "planes": (2, planes, *size) if planes else None,
    }
    for part, shape in wanted.items():
        found = _shape(getattr(condition, part))
        if found != shape:
            raise PreimageError(
                f"expected the {SCHEME} '{name}' to give a {part} of shape {shape} for 2 labels, "
                f"found {found}; mend it, or its vector_size and plane_count"
            )


def _check_parts(name: str, fresh: Any) -> None:
    if not (isinstance(fresh, list) and all(isinstance(part, Tensor) for part in fresh)):
        raise PreimageError(
            f"expected restart of the {GENERATOR} '{name}' to give a list of the parameters that "
            f"it drew anew, found {type(fresh).__name__}; return one, empty if it drew none"
        )


def _check_images(name: str, images: Any, spec: ImageSpec) -> None:
    shape = (2, *spec.shape)
    if _shape(images) != shape or images.dtype != torch.float32:
        raise PreimageError(
            f"expected the {GENERATOR} '{name}' to give float32 images of shape {shape}, found "
            f"{_shape(images)}; mend its forward"
        )
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise PreimageError(
            f"expected the {GENERATOR} '{name}' to give images in [0, 1], found "
            f"{float(images.min()):g} to {float(images.max()):g}; end it in a sigmoid"
        )


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None

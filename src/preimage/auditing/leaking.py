"""Does it leak its training data? A reconstruction with a control group."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from preimage.auditing.budget import leak_images
from preimage.auditing.context import Context
from preimage.auditing.parts import Found, LeftOutError, part
from preimage.auditing.reconstructed import leak_figures
from preimage.classifier import float32_weights, frozen
from preimage.commands import Control, Output, Reconstruct
from preimage.config import ReconstructConfig
from preimage.jobs.reconstruct import PANELS_FILE, reconstruct_job
from preimage.leak.first_layer import first_layer
from preimage.leak.reconstruction import images_room
from preimage.leak.verdict import FEWEST
from preimage.pages import as_sentence

_LEAST, _MOST = 100, 2000
_SEARCH = 0.75
"""Share of the time that goes into the search; the rest is for comparing."""
_COMPARED = 500


@part("leak", "leak", 0.2, needs=("train", "test"), job=True)
def leak(context: Context, seconds: float) -> Found:
    """The verdict, its figures and the best pairs."""
    command = context.command
    images = context.fixed("leak images", lambda: _images(context))
    if images < FEWEST:
        raise LeftOutError(
            f"there is memory for {images} reconstructions at a time, and fewer than {FEWEST} tell "
            "nothing; audit it where there is more"
        )
    steps = context.fixed("leak steps", lambda: _steps(context, images, seconds))
    if steps < _LEAST:
        raise LeftOutError(
            f"there is time for {steps} steps of reconstruction, and fewer than {_LEAST} tell "
            "nothing; give a larger --budget"
        )
    config = ReconstructConfig(images=images, steps=steps, seed=command.seed)
    record, folder = reconstruct_job(
        Reconstruct(
            model=command.model,
            config=config,
            control=Control(
                data=context.data.name,
                heldout=command.heldout,
                evaluator=command.evaluator,
                most=_COMPARED,
            ),
            runtime=replace(command.runtime, precision="auto"),  # it has one of its own
            output=Output(out=str(context.inner("leak"))),
        ),
        context.report,
        classifier=context.classifier,
    )
    panels = json.loads((folder / PANELS_FILE).read_text(encoding="utf-8"))
    note = (
        f"{_found(record['unmixed'], images, steps)}, and compared with {record['images_each']} "
        "training and as many held-out images."
    )
    figures = {**leak_figures(record, asdict(config)), "first_layer": _first_layer(context)}
    return Found(figures, panels, [note, *map(as_sentence, record.get("warnings", ()))])


def _found(unmixed: int, images: int, steps: int) -> str:
    """How the images came to be."""
    looked_for = f"{images - unmixed} images were looked for in {steps} steps"
    if not unmixed:
        return looked_for
    came = f"{unmixed} images came out of the first layer's weights"
    return came if unmixed == images else f"{came}, {looked_for}"


def _first_layer(context: Context) -> str:
    """Whether training images can come out of the weights, or be told by them, at all."""
    with frozen(context.classifier), float32_weights(context.classifier):
        return "other" if first_layer(context.classifier) is None else "dense"


def _images(context: Context) -> int:
    """Those that are usual, or as many as there is memory for."""
    config = ReconstructConfig(seed=context.command.seed)
    room = images_room(context.classifier, config, context.command.runtime)
    usual = leak_images(context.classifier.classes)
    return usual if room is None else min(usual, room)


def _steps(context: Context, images: int, seconds: float) -> int:
    step = context.reconstruction_seconds(images, enough=seconds / _LEAST)
    return min(_MOST, int(_SEARCH * seconds / step))

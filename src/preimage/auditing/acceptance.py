"""What does it accept? The inversion, its figures and a gallery."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from preimage.auditing.context import Context, confidence, wilson
from preimage.auditing.parts import Found, LeftOutError, part
from preimage.commands import Invert, Measure, Output
from preimage.config import PRESETS, InvertConfig
from preimage.data import ImageSet
from preimage.explain.counterfeits import CONFIDENT
from preimage.inversion import predict
from preimage.jobs.invert import invert_job
from preimage.jobs.measure import Judges
from preimage.ood.synthetic import make_synthetic, synthetic_names
from preimage.pages import STRIP, Cell, Strip, Table, strip
from preimage.panels import strips, table
from preimage.runtime import stream

_LEAST, _ENOUGH = 60, 200
"""Steps without which there is nothing to show, and those that are worth a smaller batch."""
_LEAST_BATCH, _TINIEST_BATCH = 64, 8
"""To save time, and memory."""
_TRAINING = 0.8
"""Share of the part's time that goes into training; the rest is for measuring."""
_MEMBER_STEPS = 350
"""Steps that a generator takes to become accurate; a bank of several needs as many for each."""
_MANY, _FEW = 10_000, 2000
_GALLERY = 12
_NOISE, _LEAST_NOISE = 500, 50


@part("inversion", "accept", 0.4, job=True)
def inversion(context: Context, seconds: float) -> Found:
    """Learn the generator that the other parts look at, and measure it."""
    command = context.command
    batch = context.fixed("inversion batch", lambda: _batch(context, seconds))
    steps = context.fixed("inversion steps", lambda: _steps(context, seconds))
    if steps < _LEAST:
        raise LeftOutError(
            f"there is time for {steps} steps of inversion, and fewer than {_LEAST} show nothing; "
            "give a larger --budget"
        )
    config = replace(_config(steps, command.seed), batch=batch)
    record, _ = invert_job(
        Invert(
            model=command.model,
            config=config,
            measure=Measure(
                data=command.data,
                evaluator=command.evaluator,
                samples=_MANY if steps == PRESETS["natural"].steps else _FEW,
                real=command.real,
                student=False,
            ),
            runtime=command.runtime,
            output=Output(out=str(context.inner("inversion"))),
        ),
        context.report,
        classifier=context.classifier,
        judges=Judges(context.data.name, context.data.test, context.evaluator),
    )
    names = (
        *("inversion_accuracy", "evaluator_accuracy", "confidence", "vendi_pixel"),
        *("vendi_pixel_real", "vendi_feature", "vendi_feature_real", "precision", "coverage"),
    )
    note = (
        f"The generator saw no data. It was trained for {steps} of the natural preset's "
        f"{PRESETS['natural'].steps} steps, with {config.members} "
        f"{'copy' if config.members == 1 else 'copies'} kept."
    )
    if batch < PRESETS["natural"].batch:
        note += f" Its batches are of {batch} images instead of {PRESETS['natural'].batch}."
    findings = [f"{f['symptom']}: {f['text']} {f['advice']}" for f in record["findings"]]
    return Found({**{n: record[n] for n in names}, "steps": steps}, notes=[note, *findings])


def _batch(context: Context, seconds: float) -> int:
    """The preset's, or less where memory or time is short: steps count more than images."""
    batch = PRESETS["natural"].batch
    while batch > max(context.inversion_room, _TINIEST_BATCH):
        batch //= 2
    while batch > _LEAST_BATCH and _room(context, seconds, batch) < _ENOUGH:
        batch //= 2
    return batch


def _steps(context: Context, seconds: float) -> int:
    room = int(_room(context, seconds, _batch(context, seconds)))
    return min(PRESETS["natural"].steps, max(room, _LEAST) if context.patient else room)


def _room(context: Context, seconds: float, batch: int) -> float:
    """Steps that there is time for; one costs about in proportion to its images."""
    step = context.inversion_seconds * batch / PRESETS["natural"].batch
    return _TRAINING * seconds / step


def _config(steps: int, seed: int) -> InvertConfig:
    natural = PRESETS["natural"]
    members = max(1, min(natural.members, steps // _MEMBER_STEPS))
    return replace(natural, steps=steps, members=members, seed=seed)


@part("gallery", "accept", 0.02)
def gallery(context: Context, seconds: float) -> Found:
    """Every class's inversions, from the most to the least confident."""
    rows = [_class(context, k) for k in context.classes]
    left = context.classifier.classes - len(rows)
    text = (
        "Each was drawn without any data. The classifier is surest of the first ones. Point at an "
        "image to read how sure it is"
        + (", and what the independent classifier says." if context.evaluator else ".")
    )
    if left:
        text += f" {left} more classes are not shown; these are spread evenly over all."
    return Found({"classes_shown": len(rows)}, [strips("Inversions by class", text, rows)])


def _class(context: Context, label: int) -> Strip:
    sample = context.of_class(label, STRIP)
    own = confidence(sample.prediction.logits, sample.condition.label)
    # two of every three neighbours in the order are left out, so that the row spans all of it
    order = own.argsort(descending=True)[:: STRIP // _GALLERY]
    images = sample.images[order]
    captions = [f"{value:.1%} sure" for value in own[order].tolist()]
    if context.evaluator is not None:
        said = predict(context.evaluator, images).logits.softmax(1)[:, label].tolist()
        captions = [
            f"{text}, the independent one {value:.1%}"
            for text, value in zip(captions, said, strict=True)
        ]
    text = f"{float(own.mean()):.1%} sure on average"
    return strip(context.classifier.class_names[label], text, images, captions)


@part("noise", "accept", 0.02)
def noise(context: Context, seconds: float) -> Found:
    """How much of what shows nothing is taken for a class with confidence."""
    kinds = synthetic_names(shapeless=True)
    each = context.fixed("noise images", lambda: _noise_images(context, seconds, len(kinds)))
    origin, starts = _starts(context, each)
    rows, taken, count = [], 0, 0
    by_set = {}
    for name in kinds:
        images = make_synthetic(name, starts, context.command.seed).floats()
        sure = _sure(context, images)
        taken, count = taken + sure, count + len(images)
        by_set[name] = sure / len(images)
        rows.append([Cell(name), Cell(f"{sure / len(images):.1%}")])
    text = (
        f"Images made by code, {len(starts)} of each kind, and the share that it takes for one of "
        f"its classes with a confidence above {CONFIDENT:.0%}. The kinds that start from an image "
        f"start from {origin}."
    )
    shares = Table("Taken with confidence", ["Kind", "taken for a class"], rows, text)
    figures = {
        "noise_share": taken / count,
        "noise_interval": list(wilson(taken, count)),
        "noise_images": count,
        "noise_by_set": by_set,
    }
    return Found(figures, [table(shares)])


def _noise_images(context: Context, seconds: float, kinds: int) -> int:
    """Of each kind: as many as there is time for, since a large network needs long for each."""
    room = int(seconds / max(1e-9, kinds * context.predict_seconds))
    return max(_LEAST_NOISE, min(_NOISE, room))


def _starts(context: Context, count: int) -> tuple[str, ImageSet]:
    """What some kinds are made from: real images, or inversions, or else noise."""
    real = context.data.test
    if real is not None:
        step = max(1, len(real) // count)
        # few of them come again: what is made of one by chance is another image each time
        return "real ones", real.subset(torch.arange(count) * step % len(real))
    try:
        name, images = "inversions", context.sample.images[:count]
    except LeftOutError:
        random = stream(context.command.seed, "audit noise")
        name, images = "noise", torch.rand(count, *context.classifier.spec.shape, generator=random)
    return name, ImageSet(
        name=name,
        split="all",
        images=(images * 255).round().to(torch.uint8),
        labels=torch.full((len(images),), -1),
        class_names=(),
    )


def _sure(context: Context, images: Tensor) -> int:
    answer = predict(context.classifier, images).logits.softmax(1)
    return int((answer.amax(1) > CONFIDENT).sum())

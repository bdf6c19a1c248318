"""What does it accept? Boundaries, units, counterfeits, a map of features, saliency."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from preimage.auditing.context import Context, confidence, wilson
from preimage.auditing.parts import Found, LeftOutError, part
from preimage.errors import PreimageError
from preimage.explain.boundary import (
    Boundaries,
    Distances,
    boundary_distances,
    boundary_images,
    paths,
)
from preimage.explain.counterfeits import CONFIDENT, UNSURE, counterfeits, nearest_real
from preimage.explain.featuremap import feature_map
from preimage.explain.saliency import overlay, saliency
from preimage.explain.units import telling_units, unit_images
from preimage.gallery import picture_uris
from preimage.inversion import predict
from preimage.pages import Picture, Strip, histogram, strip
from preimage.panels import Panel, heat, histograms, scatter, strips
from preimage.panels import paths as paths_panel
from preimage.runtime import stream

_MOST_PAIRS, _MOST_PATHS, _POINTS = 45, 6, 9
_MOST_UNITS, _UNIT_IMAGES = 8, 8
_DISTANCE_IMAGES, _FOR_DISTANCES, _SLOPE_PASSES = 200, 0.25, 2.0
"""Images at most, their share of the part's time, and what a slope costs in answers."""
_MAP_POINTS = 240
_STRIKING, _COMPARED, _EXPLAINED = 12, 12, 10
_BOUNDARY_STEPS, _UNIT_STEPS = 60, 40
_STEP_IMAGES = 256.0
"""Images of the inversion step by which the cost of a step of these parts is reckoned."""


@part("counterfeits", "accept", 0.03)
def find_counterfeits(context: Context, seconds: float) -> Found:
    """Inversions that look right to the classifier only, and the real images nearest to some."""
    sample = context.sample
    panels = [_beside_real(context)] if context.data.test is not None else []
    if context.evaluator is None:
        return Found({}, panels)
    said = predict(context.evaluator, sample.images).logits
    panels.append(_confidence(sample.prediction.logits, said, sample.condition.label))
    found = counterfeits(sample.prediction.logits, said, sample.condition.label)
    if found.share is None:
        return Found({}, panels, [f"No inversion has a confidence above {CONFIDENT:.0%}."])
    rows = found.rows[:_STRIKING]
    if len(rows):
        panels.insert(0, _striking(context, rows, said))
    low, high = wilson(len(found.rows), found.confident)
    figures = {
        "counterfeit_share": found.share,
        "counterfeit_interval": [low, high],
        "counterfeit_samples": found.confident,
    }
    note = (
        f"{len(found.rows)} of {found.confident} inversions with a confidence above "
        f"{CONFIDENT:.0%} are counterfeits: the independent classifier says another class, or "
        f"gives its best one less than {UNSURE:.0%}."
    )
    return Found(figures, panels, [note])


def _confidence(target: Tensor, said: Tensor, labels: Tensor) -> Panel:
    """How sure both classifiers are of the class that was asked for."""
    own, other = confidence(target, labels), confidence(said, labels)
    finite = torch.isfinite(own) & torch.isfinite(other)
    plot = histogram("probability of the class asked for", own[finite], other[finite], None)
    key = ("this classifier", "the independent one", "on the same inversions; surer to the right.")
    return histograms("How sure both are", key, [plot])


def _striking(context: Context, rows: Tensor, said: Tensor) -> Panel:
    sample, names = context.sample, context.classifier.class_names
    own = confidence(sample.prediction.logits, sample.condition.label)
    captions = [
        f"{names[int(sample.condition.label[row])]}, {float(own[row]):.1%} sure; the independent "
        f"one says {names[int(said[row].argmax())]}, {float(said[row].softmax(0).amax()):.0%}"
        for row in rows.tolist()
    ]
    shown = strip("Counterfeits", "", sample.images[rows], captions)
    return strips(
        "The most striking counterfeits",
        "The classifier is sure of these, an independent one sees something else.",
        [shown],
    )


def _beside_real(context: Context) -> Panel:
    """One inversion of each class over the real image nearest to it."""
    real = context.data.test
    assert real is not None
    labels = torch.tensor(context.classes[:_COMPARED])
    images = context.inversion.sample(labels, seed=context.command.seed).images
    rows = nearest_real(images, labels, real)
    there = rows >= 0
    names = [context.classifier.class_names[k] for k in labels[there].tolist()]
    return strips(
        "Beside real images",
        "An inversion of each class, and below it the real image of that class that is "
        "nearest to it in pixels.",
        [
            strip("Inversion", "", images[there], names),
            strip("Nearest real image", "", real.floats(rows[there]), names),
        ],
    )


@part("boundaries", "accept", 0.08)
def find_boundaries(context: Context, seconds: float) -> Found:
    """Images between two classes, paths through them, and how near the boundaries are."""
    pairs = context.fixed("pairs", lambda: _pairs(context, seconds))
    if not pairs:
        raise LeftOutError("there is no time for a boundary; give a larger --budget")
    found = boundary_images(
        context.classifier,
        context.inversion,
        [(a, b) for a, b in pairs],
        steps=_BOUNDARY_STEPS,
        seed=context.command.seed,
    )
    reached = float(found.reached.double().mean())
    distances = _distances(context, seconds)
    figures = {
        "boundary_reached": reached,
        "boundary_distance": float(distances.nearest.nanmedian()),
    }
    distance_map = heat(
        "How near the boundaries are",
        "Distance in pixels (L2, to first order) from inversions of the row's class to the "
        "boundary with the column's; the median. The stronger the colour, the nearer.",
        context.names,
        distances.table,
    )
    note = (
        f"{int(found.reached.sum())} of {len(pairs)} boundary images were brought to between 40 "
        "and 60 % for both classes. The nearest boundary is that of an inversion with the nearest "
        "of the classes shown."
    )
    return Found(figures, [_between(context, found), _ways(context, found), distance_map], [note])


def _pairs(context: Context, seconds: float) -> list[tuple[int, int]]:
    """As many pairs as there is time for, spread over all."""
    step = context.inversion_seconds * 2 / _STEP_IMAGES
    room = int((1 - _FOR_DISTANCES) * seconds / max(1e-9, step * _BOUNDARY_STEPS))
    every = list(itertools.combinations(context.classes, 2))
    count = min(room, _MOST_PAIRS, len(every))
    order = torch.randperm(len(every), generator=stream(context.command.seed, "audit pairs"))
    return [every[i] for i in sorted(order[:count].tolist())]


def _between(context: Context, found: Boundaries) -> Panel:
    names = context.classifier.class_names
    captions = [
        f"{names[a]} {p:.0%}, {names[b]} {q:.0%}"
        for (a, b), (p, q) in zip(found.pairs, found.probabilities.tolist(), strict=True)
    ]
    pictures = [Picture(u, t) for u, t in zip(picture_uris(found.images), captions, strict=True)]
    rows: dict[int, list[Picture]] = {}
    for (a, _), picture in zip(found.pairs, pictures, strict=True):
        rows.setdefault(a, []).append(picture)
    return strips(
        "Between two classes",
        "Images on the decision boundary: the classifier gives both classes about one half. Point "
        "at one to read what it gives.",
        [Strip(f"{names[a]} or ...", "", row) for a, row in rows.items()],
    )


def _ways(context: Context, found: Boundaries) -> Panel:
    # those that reached the boundary best come first
    order = (found.probabilities - 0.5).abs().amax(1).argsort(stable=True)[:_MOST_PATHS]
    chosen = Boundaries(
        tuple(found.pairs[i] for i in order.tolist()),
        found.images[order],
        found.probabilities[order],
        found.start.rows(order),
        found.middle.rows(order),
        found.end.rows(order),
    )
    ways = paths(context.classifier, chosen, _POINTS)
    names = context.classifier.class_names
    rows = []
    for (a, b), images, said in zip(chosen.pairs, ways.images, ways.probabilities, strict=True):
        texts = [f"{p:.0%} | {q:.0%}" for p, q in said.tolist()]
        pictures = [Picture(u, t) for u, t in zip(picture_uris(images), texts, strict=True)]
        rows.append((f"{names[a]} to {names[b]}", pictures))
    return paths_panel(
        "Paths from class to class",
        "Through the boundary image in the middle; below each image what the classifier gives to "
        "the first and to the second class.",
        rows,
    )


def _distances(context: Context, seconds: float) -> Distances:
    count = context.fixed("distance images", lambda: _distance_images(context, seconds))
    labels = torch.tensor(context.classes)
    labels = labels.repeat(-(-count // len(labels)))[:count]
    sample = context.inversion.sample(labels, seed=2 + context.command.seed)
    return boundary_distances(context.classifier, sample.images, labels, context.classes)


def _distance_images(context: Context, seconds: float) -> int:
    """One of each class at least: of each image the way to every class is measured."""
    one = len(context.classes) * _SLOPE_PASSES * context.predict_seconds
    room = int(_FOR_DISTANCES * seconds / max(1e-9, one))
    return min(_DISTANCE_IMAGES, max(len(context.classes), room))


@part("units", "accept", 0.04)
def find_units(context: Context, seconds: float) -> Found:
    """Inversions that drive one penultimate unit."""
    count = context.fixed("units", lambda: _unit_count(context, seconds))
    if not count:
        raise LeftOutError("there is no time for single units; give a larger --budget")
    sample = context.sample
    units = telling_units(sample.prediction.features, sample.condition.label, count)
    found = unit_images(
        context.classifier,
        context.inversion,
        units,
        count=_UNIT_IMAGES,
        steps=_UNIT_STEPS,
        seed=context.command.seed,
    )
    names = context.classifier.class_names
    rows = []
    for one in found:
        labels = predict(context.classifier, one.images).logits.argmax(1).tolist()
        captions = [
            f"{value:.1f}, taken for {names[k]}"
            for value, k in zip(one.values.tolist(), labels, strict=True)
        ]
        text = (
            f"up to {float(one.values.amax()):.1f}; usual {one.usual[0]:.1f} to {one.usual[1]:.1f}"
        )
        rows.append(strip(f"Unit {one.unit}", text, one.images, captions))
    panel = strips(
        "What single units look for",
        "Inversions that drive one penultimate unit most, of the units that tell the classes apart "
        "best. Usual is the mean and the largest value over inversions.",
        rows,
    )
    return Found({}, [panel])


def _unit_count(context: Context, seconds: float) -> int:
    step = context.inversion_seconds * 2 / _STEP_IMAGES
    return min(_MOST_UNITS, int(seconds / max(1e-9, step * _UNIT_STEPS * _UNIT_IMAGES)))


@part("map", "accept", 0.03)
def find_map(context: Context, seconds: float) -> Found:
    """A map of the features of inversions and of real images."""
    labels = torch.tensor(context.classes)
    labels = labels.repeat(-(-_MAP_POINTS // len(labels)))[:_MAP_POINTS]
    sample = context.inversion.sample(labels, seed=3 + context.command.seed)
    images, features = [sample.images], [sample.prediction.features]
    groups = [0] * len(labels)
    names = context.classifier.class_names
    texts = [
        f"Inversion of {names[k]}, {p:.0%} sure"
        for k, p in zip(
            labels.tolist(), confidence(sample.prediction.logits, labels).tolist(), strict=True
        )
    ]
    if context.data.test is not None:
        shown, said, captions = _real_points(context)
        images.append(shown)
        features.append(said)
        groups += [1] * len(shown)
        texts += captions
    found = feature_map(torch.cat(features), context.command.seed)
    rows = found.rows.tolist()
    panel = scatter(
        "A map of features",
        f"Penultimate features by {found.method}: images that are near to each other look alike "
        "to the classifier. Each mark shows its image.",
        found.points,
        [groups[i] for i in rows],
        ["inversions", "real images"][: 1 + (context.data.test is not None)],
        [texts[i] for i in rows],
        torch.cat(images)[found.rows],
    )
    left = len(groups) - len(rows)
    return Found({}, [panel], [f"{left} images without finite features are left out."] * bool(left))


def _real_points(context: Context) -> tuple[Tensor, Tensor, list[str]]:
    real = context.data.test
    assert real is not None
    wanted = torch.isin(real.labels, torch.tensor(context.classes)).nonzero().flatten()
    rows = wanted[torch.linspace(0, len(wanted) - 1, min(_MAP_POINTS, len(wanted))).long()]
    images = real.floats(rows)
    answer = predict(context.classifier, images)
    names = context.classifier.class_names
    texts = [
        f"Real {names[k]}, taken for {names[said]}"
        for k, said in zip(
            real.labels[rows].tolist(), answer.logits.argmax(1).tolist(), strict=True
        )
    ]
    return images, answer.features, texts


@part("saliency", "accept", 0.02)
def find_saliency(context: Context, seconds: float) -> Found:
    """Which pixels of some inversions the answer rests on."""
    labels = torch.tensor(context.classes[:_EXPLAINED])
    images = context.inversion.sample(labels, seed=context.command.seed).images
    try:
        maps = saliency(context.classifier, images, labels)
    except PreimageError as error:
        raise LeftOutError(str(error)) from error
    names = [context.classifier.class_names[k] for k in labels.tolist()]
    panel = strips(
        "What the answer rests on",
        "Integrated gradients from black: orange speaks for the class, blue against it.",
        [
            strip("Inversion", "", images, names),
            strip("Saliency", "", overlay(images, maps), names),
        ],
    )
    return Found({}, [panel])

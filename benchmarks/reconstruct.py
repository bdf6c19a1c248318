"""Reconstruct the training images of classifiers that saw few, and record what comes of it.

    python benchmarks/reconstruct.py --datasets mnist --images 100 --classes 2 --seeds 0 1 2
    python benchmarks/reconstruct.py --calibrate --trials 10
    python benchmarks/reconstruct.py --whole mnist --archs bundled mlp vit --seeds 0

Every classifier is trained to zero error by ``preimage train ... --limit N`` and kept under
runs/leak. Without --calibrate the record is what ``preimage reconstruct RUN`` says, where leaking
is known to happen. With it, reconstructions of the same classifiers are compared with two groups of
images that they were *not* trained on: any "leaks" among these is a false alarm. With --whole the
classifiers have seen whole data sets, and nobody knows beforehand whether they leak.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from common import DATASETS, RESULTS, record_missing
from preimage import load
from preimage.data import ImageSet
from preimage.data.portion import few_images, two_classes
from preimage.jobs.reconstruct import IMAGES_FILE
from preimage.jobs.train import IMAGES_FILE as KEPT_FILE
from preimage.leak.control import pair
from preimage.leak.matching import matched, similarities
from preimage.leak.verdict import RECOVERED, judge
from preimage.limits import SAYS
from preimage.records import Record
from preimage.settings import PRECISION
from preimage.tensors import unpack

FILE = RESULTS / "reconstruct.json"
KEYS = (
    *("dataset", "arch", "n_train", "classes", "first_scale", "seed", "method", "leaky", "trial"),
    *("defence", "steps"),
)
RUNS = Path("runs/leak")
ODD = ("--positive", "1", "3", "5", "7", "9")
FIT = (
    *("--weight-decay", "0", "--epochs", "3000", "--optimizer", "sgd", "--lr", "0.02"),
    *("--precision", "32-true"),
)
"""Gradient descent to a loss of about 0: the margins' maximum is what that tends to, not what AdamW
does, whose weights say little about the images. In float32 on every machine, as bf16 rounds what an
image leaves in the weights."""
BF16 = ("--precision", "bf16-mixed")
FEW_EPOCHS = {("cnn", 500): ("--epochs", "1000"), ("mlp", 5000): ("--epochs", "1000")}
"""Of classifiers whose 3,000 epochs take half an hour each."""
OWN = {
    "mlp": ("--width", "1000"),
    "vit": ("--optimizer", "adamw", "--lr", "0.001", "--epochs", "300"),
}
"""Of an architecture. Gradient descent alone does not fit 100 images to a ViT in 300 epochs."""
STEPS, IMAGES = 1500, 100
ALL, FEW_STEPS = "preimage-direct-all", 300
"""Looks for as many images as were trained on; nearly all that come are from the weights, and the
steps are for the few others."""
SHORT = "-short"
"""Ends the name of a method that gets as few: a step of a convolutional classifier takes long."""
WHOLE, WHOLE_STEPS = "whole", FEW_STEPS
"""Of classifiers that have seen whole data sets. The steps are few: so are the hours."""
EPOCHS = {
    ("vit", "mnist"): ("--epochs", "5"),
    ("vit", "fashion_mnist"): ("--epochs", "5"),
    ("vit", "cifar10"): ("--epochs", "6"),
}
"""Of classifiers that see whole data sets, where a data set's recipe takes hours."""
BUNDLED = "bundled"
BESIDE = 10_000
"""Images of each group to compare those with, at most."""
NO_UNMIXING = ("--start", "noise")


def off(name: str) -> tuple[str, str]:
    """What switches a term off."""
    return f"--{name.replace('_', '-')}", "0"


KKT = (
    *NO_UNMIXING,
    *(part for name in SAYS if name not in ("stationarity", "pixels") for part in off(name)),
)
METHODS: dict[str, tuple[str, ...]] = {
    "preimage-direct": ("--steps", str(STEPS)),
    ALL: ("--steps", str(FEW_STEPS)),
    "without unmixing": (*NO_UNMIXING, "--steps", str(STEPS)),
    "generator without unmixing": (
        *("--carrier", "generator", *NO_UNMIXING, "--steps", str(STEPS)),
    ),
    f"preimage-direct{SHORT}": ("--steps", str(FEW_STEPS)),
    "kkt": ("--steps", str(STEPS), *KKT),
    f"kkt{SHORT}": ("--steps", str(FEW_STEPS), *KKT),
    "kkt-long": ("--steps", str(10 * STEPS), *KKT),
    **{
        f"without unmixing, {name}": (*NO_UNMIXING, "--steps", str(STEPS), *off(name))
        for name in SAYS
    },
}
"""By name; kkt is stationarity alone, with the range of pixels, as in Haim et al. 2022; kkt-long
is the same in ten times the steps. A term is switched off where all images are looked for, since
what comes out of the weights needs none."""
LONG = "weight decay 0.0005, 25,000 steps"
SMALL_DECAY = ("--weight-decay", "0.0005", "--batch", "20", "--lr", "0.1", "--epochs", "5000")
DEFENCES: dict[str, tuple[str, ...]] = {
    "none": (),
    "dropout": ("--dropout", "0.5"),
    "bf16": BF16,
    "weight decay": ("--weight-decay", "0.5"),
    "weight decay 0.1": ("--weight-decay", "0.1"),
    "weight decay 0.1, bf16": ("--weight-decay", "0.1", *BF16),
    "weight decay 0.02": ("--weight-decay", "0.02"),
    "weight decay 0.01, batches of 20": ("--weight-decay", "0.01", "--batch", "20"),
    LONG: SMALL_DECAY,
    f"{LONG}, bf16": (*SMALL_DECAY, *BF16),
    "label smoothing": ("--label-smoothing", "0.2"),
    "early stop": ("--stop-loss", "0.3"),
    "DP-SGD": ("--dp-noise", "1.0", "--epochs", "100"),
}
"""By name, what the training does in addition."""
_SHARED = ("target_accuracy", "seconds", "hardware", "compute_precision")
FIELDS = (
    *("recovered", "recovered_control", "copied", "copied_control", "unmixed"),
    *("ssim_train", "ssim_control", "effect", "p_value"),
    *("verdict", *_SHARED),
)


def main() -> None:
    """Run what is asked for and is not recorded yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_classifiers(parser)
    parser.add_argument("--archs", nargs="+", default=["mlp", "cnn"])
    parser.add_argument(
        "--methods", nargs="+", default=["preimage-direct", "kkt"], choices=list(METHODS)
    )
    parser.add_argument("--defences", nargs="+", default=["none"], choices=list(DEFENCES))
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--trials", type=int, default=10, help="of calibration, a classifier")
    parser.add_argument("--whole", nargs="+", default=[], choices=DATASETS)
    parser.add_argument(
        "--again",
        action="store_true",
        help="also what is recorded; finished runs under runs/leak are not made again",
    )
    given = parser.parse_args()
    if given.whole:
        of_whole = {"seed": given.seeds, "dataset": given.whole, "arch": given.archs}
        record_missing(FILE, of_whole | {"method": [WHOLE]}, whole, KEYS, given.again)
        return
    axes = classifier_axes(given, given.archs)
    axes |= {"defence": given.defences, "method": given.methods}
    if given.calibrate:
        axes |= {"leaky": [False], "trial": list(range(given.trials))}
        record_missing(FILE, axes, calibrate, KEYS, given.again)
    else:
        record_missing(FILE, axes | {"leaky": [True]}, measure, KEYS, given.again)


def add_classifiers(parser: argparse.ArgumentParser) -> None:
    """Options that say which classifiers of few images."""
    parser.add_argument("--datasets", nargs="+", default=["mnist", "cifar10"])
    parser.add_argument("--images", nargs="+", type=int, default=[100, 500])
    parser.add_argument("--classes", nargs="+", type=int, default=[2, 10], choices=[2, 10])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--first-scales", nargs="+", type=float, default=[1e-4])


def classifier_axes(given: argparse.Namespace, archs: Sequence[str]) -> dict[str, Any]:
    """Values of :func:`add_classifiers`'s options by the name of their field."""
    return {
        "seed": given.seeds,
        "classes": given.classes,
        "dataset": given.datasets,
        "n_train": given.images,
        "first_scale": given.first_scales,
        "arch": archs,
    }


def measure(**of: Any) -> list[Record]:
    """The record of one reconstruction, of a classifier that leaks as far as is known."""
    del of["leaky"]
    images = _asked(of["method"], of["n_train"])
    return [_record(reconstructed(**of), True, _steps(of["method"]), of, images)]


def calibrate(trial: int, leaky: bool, **of: Any) -> list[Record]:
    """What the verdict says of two groups that the classifier has never seen.

    They are chosen, paired and compared as those that a user gives.
    """
    run = reconstructed(**of)
    whole = json.loads((run / "metrics.json").read_text())
    _, found = unpack(run / IMAGES_FILE, "preimage-images-1", "images", "reconstruct again")
    first, second = unseen(trained_on(run), trial, of["dataset"], of["n_train"], of["classes"])
    one, other = pair(first, second, BESIDE, trial)[:2]
    both = torch.cat([one.floats(), other.floats()])
    near = similarities(found["images"], both, 64)
    halves = near[:, : len(one)], near[:, len(one) :]
    verdict = judge(*halves, trial)
    counts = [
        int((matched(part, found["labels"], group.labels) > RECOVERED).sum())
        for part, group in zip(halves, (one, other), strict=True)
    ]
    record = {
        **of,
        "recovered": counts[0],
        "recovered_control": counts[1],
        "ssim_train": verdict.similarity_train,
        "ssim_control": verdict.similarity_control,
        "effect": verdict.effect,
        "p_value": verdict.p_value,
        "verdict": verdict.verdict,
        **{name: whole[name] for name in _SHARED},
    }
    extra = {"leaky": leaky, "trial": trial, "steps": _steps(of["method"]), "images": IMAGES}
    return [{**record, **extra, "trained_in": _trained_in(run)}]


def whole(seed: int, dataset: str, arch: str, method: str) -> list[Record]:
    """The record of a classifier that has seen all training images of its data set."""
    out = RUNS / f"{WHOLE}-{dataset}-{arch}-{seed}"
    model = dataset
    if arch != BUNDLED:
        model = str(out.with_name(out.name + "-classifier"))
        epochs = EPOCHS.get((arch, dataset), ())
        _run("train", dataset, "--arch", arch, *epochs, "--seed", str(seed), "--out", model)
    how = ("--steps", str(WHOLE_STEPS), "--images", str(IMAGES), "--seed", str(seed))
    beside = ("--data", dataset, "--most", str(BESIDE))
    _run("reconstruct", model, *beside, *how, "--out", str(out))
    data = load(dataset, "train")
    of = {
        **{"dataset": dataset, "arch": arch, "n_train": len(data), "classes": data.classes},
        **{"first_scale": 1.0, "seed": seed, "method": method, "defence": "none"},
    }
    return [_record(out, False, WHOLE_STEPS, of)]


def _record(run: Path, leaky: bool, steps: int, of: dict[str, Any], images: int = IMAGES) -> Record:
    """What the reconstruction in `run` came to."""
    found = json.loads((run / "metrics.json").read_text())
    extra = {"leaky": leaky, "trial": 0, "steps": steps, "images": images}
    told = {
        f"{name}_auroc": (found[name] or {}).get("auroc")
        for name in ("membership", "membership_loss")
    }
    figures = {name: found[name] for name in FIELDS} | {"trained_in": _trained_in(run)}
    return {**of, **figures, **told, **extra}


def _trained_in(run: Path) -> str | None:
    """The precision that the classifier of a reconstruction was trained in; None of a bundled."""
    model = Path(json.loads((run / "config.json").read_text())["config"]["model"]["model"])
    settings = model / "config.json"
    return json.loads(settings.read_text())["config"][PRECISION] if settings.is_file() else None


@cache  # trials of one classifier share its reconstructions
def reconstructed(method: str, seed: int, **of: Any) -> Path:
    """Run folder of a reconstruction, made where it is missing; so is its classifier's."""
    model = trained(seed=seed, **of)
    out = model.with_name(f"{model.name}-{_hyphened(method)}")
    images = _asked(method, of["n_train"])
    how = (*METHODS[method], "--images", str(images), "--seed", str(seed))
    _run("reconstruct", str(model), *how, "--out", str(out))
    return out


def trained_on(run: Path) -> ImageSet:
    """The images that the classifier of a reconstruction was trained on."""
    settings = json.loads((run / "config.json").read_text())["config"]
    return load(str(Path(settings["model"]["model"]) / KEPT_FILE), "train")


def trained(
    dataset: str, arch: str, n_train: int, classes: int, first_scale: float, seed: int, defence: str
) -> Path:
    """Run folder of a classifier, made where it is missing."""
    name = f"{dataset}-{arch}-{n_train}-{classes}-{first_scale:g}-{seed}"
    out = RUNS / f"{name}-{_hyphened(defence)}"
    task = ODD if classes == 2 else ()
    length = FEW_EPOCHS.get((arch, n_train), ())
    options = (*FIT, *OWN.get(arch, ()), *length, *task, *DEFENCES[defence])
    size = ("--limit", str(n_train), "--first-scale", str(first_scale), "--seed", str(seed))
    _run("train", dataset, "--arch", arch, *options, *size, "--out", str(out))
    return out


def unseen(
    members: ImageSet, trial: int, dataset: str, n_train: int, classes: int
) -> list[ImageSet]:
    """Two groups of training-split images that are none of `members`."""
    data = load(dataset, "train")
    seen = {bytes(row.numpy()) for row in members.images.flatten(1)}
    groups = few_images(data, n_train, 1000 + trial)
    if classes == 2:
        groups = tuple(two_classes(group, [1, 3, 5, 7, 9]) for group in groups)  # type: ignore[assignment]
    kept = [
        [i for i, row in enumerate(group.images.flatten(1)) if bytes(row.numpy()) not in seen]
        for group in groups
    ]
    count = min(map(len, kept))
    return [group.subset(rows[:count]) for group, rows in zip(groups, kept, strict=True)]


def _hyphened(name: str) -> str:
    """A method's or defence's name as a part of a folder's."""
    return name.replace(",", "").replace(" ", "-")


def _asked(method: str, n_train: int) -> int:
    """Images to look for."""
    return n_train if method == ALL else IMAGES


def _steps(method: str) -> int:
    how = METHODS[method]
    return int(how[how.index("--steps") + 1])


def _run(*arguments: str) -> None:
    program = str(Path(sys.executable).with_name("preimage"))
    subprocess.run([program, *arguments, "--json"], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()

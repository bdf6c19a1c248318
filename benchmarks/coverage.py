"""What coverage hangs on: inversions whose features are moved, class by class, to the real ones'.

    python benchmarks/coverage.py mnist=runs/a fashion_mnist=runs/b

Each run is one of ``preimage invert``. Precision and coverage of the test images are measured for
as many real training images of each class, for the run's inversions, for the same with each
class's mean in the evaluator's features (then its covariance as well) made that of the test
images, and for normal distributions with that mean and covariance. The last three know what no
inversion can: they tell how near to the real features a generator has to come.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from common import RESULTS
from preimage.config import ModelConfig
from preimage.data import load
from preimage.diversity import first_of_each_class, precision_coverage
from preimage.inversion import Inversion, predict
from preimage.jobs.invert import GENERATOR_FILE
from preimage.records import Record, merge_records
from preimage.runtime import stream
from preimage.sources import load_classifier

SOURCES = (
    "real training images",
    "inversions",
    "... with the real class means",
    "... and covariances",
    "normal distributions of these",
)
"""What the images are whose features are measured, in this order."""
_LEAST_VARIANCE = 1e-4


def main() -> None:
    """Measure the runs named on the command line."""
    records: list[Record] = []
    for argument in sys.argv[1:]:
        dataset, _, run = argument.partition("=")
        inversion = Inversion.load(Path(run) / GENERATOR_FILE)
        about = {"dataset": dataset, "preset": inversion.config.preset}
        real, compared = _features(dataset, inversion)
        for images, features in zip(SOURCES, compared, strict=True):
            precision, coverage = precision_coverage(real, features)
            figures = {"precision": precision, "coverage": coverage}
            records.append({**about, "seed": inversion.config.seed, "images": images, **figures})
            print(records[-1], flush=True)
    # the runs' own places mean nothing to others
    command = "python benchmarks/coverage.py DATASET=RUN ..."
    merge_records(
        RESULTS / "coverage.json", records, ("dataset", "preset", "seed", "images"), command
    )


def _features(dataset: str, inversion: Inversion) -> tuple[Tensor, list[Tensor]]:
    """Features of the test images, and of what is compared with them, as :data:`SOURCES`."""
    evaluator = load_classifier(ModelConfig(f"{dataset}-evaluator"))
    test, train = load(dataset, split="test"), load(dataset, split="train")
    counts = torch.bincount(test.labels, minlength=inversion.classes)
    rows = first_of_each_class(train.labels, counts).nonzero().flatten()
    real = predict(evaluator, test.floats(torch.arange(len(test)))).features
    others = predict(evaluator, train.floats(rows)).features
    drawn = predict(evaluator, inversion.images(test.labels, seed=inversion.config.seed)).features
    moved, shaped, normal = drawn.clone(), drawn.clone(), drawn.clone()
    random = stream("coverage", inversion.config.seed)
    for label in test.labels.unique():
        mine = test.labels == label
        noise = torch.randn(int(mine.sum()), real.shape[1], generator=random)
        moved[mine] += real[mine].mean(0) - drawn[mine].mean(0)
        shaped[mine] = with_moments(drawn[mine], real[mine])
        normal[mine] = with_moments(noise, real[mine])
    return real, [others, drawn, moved, shaped, normal]


def with_moments(vectors: Tensor, real: Tensor) -> Tensor:
    """`vectors` (N, D) carried linearly to the mean and the covariance of `real` (M, D)."""
    centred = vectors - vectors.mean(0)
    there = _root(_covariance(real), 0.5)
    return centred @ _root(_covariance(vectors), -0.5) @ there + real.mean(0)


def _covariance(vectors: Tensor) -> Tensor:
    least = _LEAST_VARIANCE * torch.eye(vectors.shape[1])
    return vectors.T.cov(correction=0) + least


def _root(matrix: Tensor, power: float) -> Tensor:
    values, axes = torch.linalg.eigh(matrix)
    return (axes * values.clamp_min(_LEAST_VARIANCE / 2) ** power) @ axes.T


if __name__ == "__main__":
    main()

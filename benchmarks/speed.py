"""Time one inversion step against the work that no inversion step can avoid.

    python benchmarks/speed.py

Unavoidable are the generator's forward and backward pass and the classifier's forward pass and
input gradient, on the same batch and at the same precision. Both are timed in turns within one
run, and the medians are compared, so that a noisy machine slows both alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from preimage.classifier import frozen
from preimage.config import InvertConfig, Runtime
from preimage.inversion import Inversion
from preimage.loop import Trainer, default_objective
from preimage.records import merge_records
from preimage.runtime import make_fabric
from preimage.sources import load_classifier

RESULTS = Path(__file__).parents[1] / "results" / "speed.json"


def main() -> None:
    """Time every data set's bundled classifier."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--datasets", nargs="+", default=["mnist", "fashion_mnist", "cifar10", "gtsrb"]
    )
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    for dataset in arguments.datasets:
        record = measure(dataset, arguments.rounds)
        merge_records(RESULTS, [record], ("dataset", "device"))
        print(record, flush=True)


def measure(dataset: str, rounds: int) -> dict[str, object]:
    """Median milliseconds of a step and of the unavoidable part, taken in turns."""
    config = InvertConfig()
    classifier = load_classifier(dataset)
    fabric = make_fabric(Runtime())
    fabric.launch()
    inversion = Inversion(classifier.spec, classifier.class_names, config, classifier=classifier)
    with frozen(classifier, fabric.device):
        trainer = Trainer(fabric, inversion, classifier, default_objective(config))
        steps: list[float] = []
        bare: list[float] = []
        for i in range(rounds + 3):
            steps.append(timed(lambda i=i: trainer.step(i)))  # type: ignore[misc]
            bare.append(timed(unavoidable(trainer)))
    step, least = statistics.median(steps[3:]), statistics.median(bare[3:])
    return {
        "dataset": dataset,
        "device": fabric.device.type,
        "step_ms": round(step, 2),
        "unavoidable_ms": round(least, 2),
        "ratio": round(step / least, 3),
    }


def unavoidable(trainer: Trainer) -> Callable[[], None]:
    """The two networks' passes on a batch that lies ready."""
    inversion, classifier, fabric = trainer.inversion, trainer.classifier, trainer.fabric
    labels = torch.arange(inversion.config.batch) % inversion.classes
    inputs = fabric.to_device(tuple(inversion.draw(labels, torch.Generator())))
    trainer.model.train()
    trainer.optimizer.zero_grad()

    def work() -> None:
        images = trainer.model(*inputs)
        with fabric.autocast():
            prediction = classifier(images)
        fabric.backward(prediction.logits.mean())

    return work


def timed(work: Callable[[], object]) -> float:
    """Milliseconds that `work` takes, all of it done on the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1000


if __name__ == "__main__":
    main()

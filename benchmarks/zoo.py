"""Test the bundled classifiers and record them; train them anew with --train.

python benchmarks/zoo.py
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from preimage import zoo
from preimage.data import load
from preimage.records import merge_records
from preimage.sources import CLASSIFIER_FILE, load_classifier
from preimage.training import accuracy_on
from preimage.zoo.cards import read_card

RESULTS = Path(__file__).parents[1] / "results" / "zoo.json"


def main() -> None:
    """Measure every bundled classifier on its test set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", action="store_true", help="first train each by its command")
    arguments = parser.parse_args()
    for name in zoo.bundled():
        if arguments.train:
            retrain(name)
        record = measure(name)
        merge_records(RESULTS, [record], ("dataset", "role"))
        print(record, flush=True)


def retrain(name: str) -> None:
    """Replace a bundled file by what its card's command makes of the data now."""
    program = Path(sys.executable).with_name("preimage")
    words = shlex.split(read_card(zoo.weights(name)).command)[1:]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([program, *words, "--out", f"{folder}/run"], check=True)
        content = (Path(folder) / "run" / CLASSIFIER_FILE).read_bytes()
    zoo.weights(name).write_bytes(content)


def measure(name: str) -> dict[str, object]:
    """Accuracy on the test set, from the file as it is bundled."""
    card = read_card(zoo.weights(name))
    return {
        "dataset": card.dataset,
        "role": "evaluator" if name.endswith("-evaluator") else "target",
        "arch": card.arch,
        "test_accuracy": accuracy_on(load_classifier(name), load(card.dataset, "test")),
        "parameters": card.parameters,
    }


if __name__ == "__main__":
    main()

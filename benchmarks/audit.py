"""Audit the bundled classifiers and two that the project did not make; keep the JSON files.

    python benchmarks/foreign.py --out runs/foreign
    python benchmarks/audit.py --budget 3m

Every file of results/audit is the audit.json of ``preimage audit ...`` with the arguments below.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import DATASETS, RESULTS

FOREIGN = Path("runs/foreign")
IMAGENET = ("--mean", "0.485", "0.456", "0.406", "--std", "0.229", "0.224", "0.225")
SUBJECTS: dict[str, tuple[str, ...]] = {
    **{name: (name, "--ood", *(other for other in DATASETS if other != name)) for name in DATASETS},
    "torchvision-resnet18": (
        *("torchvision:resnet18", "--checkpoint", str(FOREIGN / "resnet18.safetensors")),
        *("--classes", "10", "--image", "3", "32", "32", *IMAGENET, "--data", "cifar10"),
        *("--evaluator", "cifar10", "--ood", "mnist", "gtsrb"),
    ),
    "exported-pt2": (
        *(str(FOREIGN / "fashion.pt2"), "--data", "fashion_mnist", "--evaluator"),
        *("fashion_mnist", "--ood", "mnist", "cifar10"),
    ),
}


def main() -> None:
    """Run what is asked for and is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--budget", default="3m")
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    for name in given.subjects:
        file = RESULTS / "audit" / f"{name}.json"
        if given.again or not file.is_file():
            audit(name, given.budget, file)


def audit(name: str, budget: str, file: Path) -> None:
    """One subject's audit, its record kept in `file`."""
    program = str(Path(sys.executable).with_name("preimage"))
    with tempfile.TemporaryDirectory() as folder:
        arguments = ("--budget", budget, "--out", folder, "--json")
        command = [program, "audit", *SUBJECTS[name], *arguments]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        record = json.loads((Path(folder) / "audit.json").read_text())
    record["command"] = " ".join(["preimage", "audit", *SUBJECTS[name], "--budget", budget])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(name, done.returncode, record["seconds"], flush=True)


if __name__ == "__main__":
    main()

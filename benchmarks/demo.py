"""How long it takes from a fresh clone to the demo's page, and its parts.

    python benchmarks/demo.py

Clones the committed state to an empty folder, and runs ``make`` there twice: for the environment,
then for the demo.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import RESULTS
from preimage.records import Record, merge_records

FILE = RESULTS / "demo.json"
ROOT = Path(__file__).parents[1]


def main() -> None:
    """Measure and record."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "preimage"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        install = _seconds("make", f"PYTHON={sys.executable}", ".venv/.ready", folder=clone)
        demo = _seconds("make", "demo", folder=clone)
        found = json.loads((clone / "runs" / "demo" / "audit.json").read_text())
        size = (clone / "runs" / "demo" / "audit.html").stat().st_size
    record: Record = {
        "install_s": round(install, 1),
        "demo_s": round(demo, 1),
        "total_s": round(install + demo, 1),
        "budget_s": found["budget_s"],
        "parts": {part["name"]: part["seconds"] for part in found["parts"]},
        "inversion_accuracy": found["accept"]["inversion_accuracy"],
        "steps": found["accept"]["steps"],
        "page_bytes": size,
        "hardware": found["hardware"],
    }
    merge_records(FILE, [record], ("hardware",), "python benchmarks/demo.py")
    print(json.dumps(record))


def _seconds(*command: str, folder: Path) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

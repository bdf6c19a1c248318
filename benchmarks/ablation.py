"""Switch one thing at a time, and record what becomes of the figures.

    python benchmarks/ablation.py --seeds 0 1 2 --datasets mnist

Every variant is a command ``preimage invert DATASET ...``; see VARIANTS for what each adds. Those
that start from the presets natural and explore have a short run's steps, so compare them with each
other only.
"""

from __future__ import annotations

import argparse

from common import RESULTS, SETTINGS, invert, record_missing
from preimage.conditioning import names as schemes
from preimage.config import PRESETS
from preimage.records import Record

FILE = RESULTS / "ablation.json"
FEW = ("--steps", "400", "--batch", "128")
SHORT = ("--preset", "natural", *FEW, "--members", "3")
EXPLORE = ("--preset", "explore", *FEW)
PAPER = ("--preset", "paper")
STUDENT_STEPS = 600
DROPOUTS = ("0", "0.1", "0.3", "0.5")


def without(name: str, preset: str = "natural") -> tuple[str, ...]:
    """A preset's further terms but one."""
    terms = PRESETS[preset].terms
    return ("--terms", *(term for term in terms if not term.startswith(f"{name}=")))


def terms_of(preset: str) -> list[str]:
    """Names of a preset's further terms."""
    return [term.partition("=")[0] for term in PRESETS[preset].terms]


VARIANTS: dict[str, tuple[str, ...]] = {
    "natural": SHORT,
    **{
        f"natural, {name} conditioning": (*SHORT, "--conditioning", name)
        for name in schemes()
        if name != PRESETS["natural"].conditioning
    },
    **{
        f"natural without {name}": (*SHORT, *without(name))
        for name in terms_of("natural")
        if name != "sureness"  # nothing else asks for the class
    },
    "natural without sureness": (*SHORT, *without("sureness"), "--beta", "5"),
    "natural without views": (*SHORT, "--shift", "0"),
    "natural without stretch": (*SHORT, "--stretch", "0"),
    "natural, one member": (*SHORT, "--members", "1"),
    **{
        f"natural, dropout {rate}": (*SHORT, "--dropout", rate)
        for rate in DROPOUTS
        if float(rate) != PRESETS["natural"].generator.dropout
    },
    "explore": EXPLORE,
    **{
        f"explore without {name}": (*EXPLORE, *without(name, "explore"))
        for name in terms_of("explore")
    },
    "paper, cross-entropy alone": (
        *(*PAPER, "--conditioning", "label", "--dropout", "0"),
        *("--alpha", "0", "--gamma", "0", "--delta", "0"),
    ),
    "paper, vector conditioning and dropout": (
        *(*PAPER, "--conditioning", "vector", "--gamma", "0", "--delta", "0"),
    ),
    "paper": PAPER,
    **{
        f"paper, {name} conditioning": (*PAPER, "--conditioning", name)
        for name in schemes()
        if name != PRESETS["paper"].conditioning
    },
    "paper without kl": (*PAPER, "--alpha", "0"),
    "paper without ce": (*PAPER, "--beta", "0"),
    "paper without cosine": (*PAPER, "--gamma", "0"),
    "paper without orthogonality": (*PAPER, "--delta", "0"),
    **{f"paper, dropout {rate}": (*PAPER, "--dropout", rate) for rate in DROPOUTS},
}


def main() -> None:
    """Run what is asked for and is not recorded yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", default=["mnist", "cifar10"])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    axes = {"seed": given.seeds, "dataset": given.datasets, "variant": given.variants}
    record_missing(FILE, axes, measure, ("variant", *SETTINGS), given.again)


def measure(seed: int, dataset: str, variant: str) -> list[Record]:
    """The record of one variant's run."""
    how = ("--seed", str(seed), "--student-steps", str(STUDENT_STEPS))
    record = invert([dataset, *VARIANTS[variant], *how])
    return [{"variant": variant, **record, "student_steps": STUDENT_STEPS}]


if __name__ == "__main__":
    main()

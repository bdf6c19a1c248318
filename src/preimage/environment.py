"""What a result was made with: versions, commit, hardware, date and command."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("preimage", "torch", "lightning-fabric", "datasets", "safetensors", "numpy")


def environment() -> dict[str, Any]:
    """All of it, ready for JSON."""
    return {
        "command": command(),
        "commit": commit(),
        "versions": versions(),
        "hardware": hardware_name(),
        "memory_gb": memory_gb(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def command() -> str:
    """The command line as a shell takes it, the program without its folder."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def commit() -> str | None:
    """Commit of the working copy that the package runs from, with -dirty where its code differs.

    As it was when this was first asked: a process goes on with the code that it began with. None
    for an installed package without a working copy.
    """
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    if head is None:
        return None
    changed = _git(root, "status", "--porcelain", "--", "src", "benchmarks")
    return f"{head}-dirty" if changed else head


def hardware_name() -> str:
    """Processor, cores and graphics card in a few words."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = "1 core" if cores == 1 else f"{cores} cores"
    return f"{count}, {_processor()}, {_graphics()}"


def memory_gb() -> float | None:
    """Main memory in 10^9 bytes; None where the system does not tell."""
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _graphics() -> str:
    """Asks only a torch that is loaded already: importing it just for this would be slow."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return "no GPU"
    count = torch.cuda.device_count()
    return f"{count} x {torch.cuda.get_device_name(0)}"


def _git(root: Path, *arguments: str) -> str | None:
    # without the locks that git status takes by default, commits made meanwhile cannot fail
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

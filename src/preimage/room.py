"""Whether a training step fits in memory, told before it is tried.

On a GPU what does not fit is an error. On Linux's CPUs the system ends the process without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor, UntypedStorage

from preimage.errors import PreimageError
from preimage.types import ImageSpec

_FEW = 2
_PEAK = 2.2
"""Memory of a step over what its forward pass keeps: gradients, and what is made on the way."""
_USABLE = 0.9
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_GROUPS = (
    ("memory.max", "memory.current", "memory.stat", ("inactive_file", "slab_reclaimable")),
    (
        *("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
        ("total_inactive_file",),
    ),
)
"""Where a container's limit, its use and that use's parts stand, and which of these are given up
as soon as anyone needs the room: first of control groups in version 2, then in version 1."""


class Kept:
    """Bytes that autograd keeps for a backward pass."""

    bytes: int = 0


@contextmanager
def kept() -> Iterator[Kept]:
    """Count what is kept meanwhile; memory that several keep counts once."""
    found = Kept()
    # by address; held, since memory that is free again would be given to the next
    seen: dict[int, UntypedStorage] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen[storage.data_ptr()] = storage
            found.bytes += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        yield found


def step_bytes(forward: Callable[[int], object]) -> float:
    """About what a step takes for every image.

    Args:
        forward: does the forward pass of so many images, and returns what holds its graph.
    """
    counts = []
    for images in (_FEW, 2 * _FEW):
        with kept() as found:
            graph = forward(images)
        counts.append(found.bytes)
        del graph
    return _PEAK * (counts[1] - counts[0]) / _FEW


def free_bytes(device: torch.device) -> float | None:
    """Memory that is free on a device for this process; None where it does not tell."""
    if device.type == "cuda":
        # what PyTorch keeps of freed tensors counts as used for the driver, and is given out again
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + kept)
    known = [value for value in (_available(), _left_of_group()) if value is not None]
    return min(known) if known and device.type == "cpu" else None


def most_images(per_image: float, free: float | None) -> int | None:
    """How many images a step has room for in so many bytes; None where nobody can tell."""
    return None if free is None or per_image <= 0 else int(_USABLE * free / per_image)


def check_room(
    per_image: float,
    images: int,
    spec: ImageSpec,
    free: float | None,
    option: str,
    processes: int = 1,
) -> None:
    """Refuse a step that does not fit.

    Args:
        per_image: bytes, see :func:`step_bytes`.
        images: of a step, on one of the processes.
        spec: their shape.
        free: bytes there, see :func:`free_bytes`.
        option: what to lower.
        processes: that share what the option says.

    Raises:
        PreimageError: naming how many images fit.
    """
    most = most_images(per_image, free)
    if most is None or free is None or images <= most:
        return
    fits = f"lower {option} to {most * processes}" if most >= _FEW else "choose smaller images"
    raise PreimageError(
        f"expected room for {images} images {spec} at a time, which take about "
        f"{per_image * images / 1e9:.1f} GB, found {free / 1e9:.1f} GB free; {fits}, or work where "
        "there is more memory"
    )


def _available() -> float | None:
    """What Linux counts as available."""
    with suppress(OSError, ValueError, IndexError):
        for line in _MEMINFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    return None


def _left_of_group() -> float | None:
    """What a container has left, where it has a limit."""
    for limit, use, parts, spare in _GROUPS:
        with suppress(OSError, ValueError):
            most, used = (
                int((_CGROUP / name).read_text(encoding="utf-8")) for name in (limit, use)
            )
            return float(most - used + _sizes(_CGROUP / parts, spare))
    return None


def _sizes(file: Path, names: Sequence[str]) -> int:
    """Sum of the lines "NAME BYTES" of these names; 0 where there is no such file."""
    with suppress(OSError, ValueError):
        lines = (line.split() for line in file.read_text(encoding="utf-8").splitlines())
        return sum(int(size) for name, size in lines if name in names)
    return 0

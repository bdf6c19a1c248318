"""Devices, precision and random streams: the one place that knows about lightning-fabric."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from preimage.config import Runtime
from preimage.errors import PreimageError


def make_fabric(runtime: Runtime) -> Fabric:
    """Fabric for these settings, not launched yet.

    Raises:
        PreimageError: when the accelerator or the number of devices is not there, or the precision
            is not for it.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    if runtime.devices < 1:
        raise PreimageError(f"expected at least 1 device, found {runtime.devices}; set --devices 1")
    if runtime.accelerator == "cuda" and torch.cuda.device_count() < runtime.devices:
        raise PreimageError(
            f"expected {runtime.devices} CUDA device(s), found {torch.cuda.device_count()}; "
            "use --accelerator cpu or fewer --devices"
        )
    try:
        return Fabric(
            accelerator=runtime.accelerator,
            devices=runtime.devices,
            strategy="ddp" if runtime.devices > 1 else "auto",
            precision=cast(Any, precision_name(runtime)),
        )
    except (RuntimeError, ValueError, TypeError, MisconfigurationException) as error:
        raise PreimageError(
            f"expected {runtime.devices} device(s) of the accelerator '{runtime.accelerator}', "
            f"found that it cannot be used ({error}); use --accelerator auto or cpu"
        ) from error


def scaler_state(fabric: Fabric) -> dict[str, Any]:
    """How 16-mixed precision scales gradients now; empty at precisions that do not scale."""
    return fabric.strategy.precision.state_dict()


def load_scaler(fabric: Fabric, state: dict[str, Any]) -> None:
    """Scale gradients as when `state` was told.

    An empty state changes nothing: it is of another precision, or was saved before states held
    this.
    """
    if state:
        fabric.strategy.precision.load_state_dict(state)


def precision_name(runtime: Runtime) -> str:
    """What the precision "auto" comes to on this machine, or the one that was asked for.

    Raises:
        PreimageError: for 16-mixed on a CPU, which would compute in bfloat16 instead.
    """
    on_gpu = runtime.accelerator in ("auto", "cuda") and torch.cuda.is_available()
    on_mps = runtime.accelerator in ("auto", "mps") and torch.backends.mps.is_available()
    if runtime.precision == "16-mixed" and not (on_gpu or on_mps):
        raise PreimageError(
            "expected a GPU for --precision 16-mixed, found none; take bf16-mixed or 32-true"
        )
    if runtime.precision != "auto":
        return runtime.precision
    # emulated bf16, which is slow, counts as supported for PyTorch
    supported = (
        torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else _cpu_has_bf16()
    )
    return "bf16-mixed" if supported else "32-true"


def _cpu_has_bf16() -> bool:
    """Whether bf16 is native on this CPU: emulated, it is slower than float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) if _has_mkldnn() else False


def _has_mkldnn() -> bool:
    return bool(torch.backends.mkldnn.is_available())


def stream(*key: int | str) -> torch.Generator:
    """CPU random generator that depends on `key` alone.

    Drawing every step's randomness from ``stream(seed, step)`` leaves no generator state to save:
    a resumed run and a run on several processes see the very numbers of an unbroken one.
    """
    text = "/".join(str(part) for part in key)
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def seed_of(*key: int | str) -> int:
    """What names the numbers of ``stream(*key)`` to PyTorch's global generators."""
    return int(stream(*key).initial_seed() % 2**31)


@contextmanager
def random_state(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """PyTorch's global random numbers as they follow from `seed`, and as before at the end.

    Args:
        seed: names the numbers.
        device: whose numbers are drawn as well as the CPU's; the other devices are left alone.
    """
    used = [device] if device is not None and device.type == "cuda" else []
    on_mps = device is not None and device.type == "mps"
    before = torch.mps.get_rng_state() if on_mps else None
    with torch.random.fork_rng(devices=used):
        reseed(seed, device)
        yield
    if before is not None:
        torch.mps.set_rng_state(before)


def reseed(seed: int, device: torch.device | None = None) -> None:
    """Let PyTorch's global random numbers follow from `seed`, on the CPU and on `device` alone."""
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    if device is not None and device.type == "mps":
        torch.mps.manual_seed(seed)


def channels_last(images: Tensor) -> Tensor:
    """The same values in the memory order that convolutions are fastest in."""
    return images.contiguous(memory_format=torch.channels_last)

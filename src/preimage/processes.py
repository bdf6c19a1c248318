"""Which of several processes leads, and when the others may begin."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from subprocess import Popen

import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from preimage.config import Runtime
from preimage.runtime import make_fabric


def is_follower(runtime: Runtime) -> bool:
    """Whether this process was started to help a first one, which does the telling and writing.

    A job scheduler numbers processes that have nothing to do with each other too, so the numbers
    tell nothing of a run on one device.
    """
    if runtime.devices == 1:
        return False
    names = ["RANK", "LOCAL_RANK", "NODE_RANK"]
    # where Fabric takes its ranks from the scheduler, and not else, its number counts
    names += ["SLURM_PROCID"] if SLURMEnvironment.detect() else []
    ranks = (os.environ.get(name, "") for name in names)
    return any(rank.isdecimal() and int(rank) > 0 for rank in ranks)


@contextmanager
def leading(runtime: Runtime) -> Iterator[Callable[[], object]]:
    """For the first process: call what this gives when the others are to begin.

    Where a launcher has started them already, and the first ends without having called it since
    nothing is to be done or something is wrong, they hear of that instead of waiting for it. Those
    that were started from here end with it where it fails or is interrupted.
    """
    helpers: list[Popen[bytes]] = []

    def begin() -> None:
        nonlocal helpers
        fabric = _launched(runtime)
        helpers = getattr(fabric.strategy.launcher, "procs", helpers)
        fabric.broadcast(True)

    try:
        yield begin
    except BaseException as error:
        _end(helpers)
        if isinstance(error, Exception):
            _release(runtime)
        raise
    _release(runtime)


def called(runtime: Runtime) -> bool:
    """For the others: wait for the first, and tell whether they are to begin."""
    return bool(_launched(runtime).broadcast(False))  # what the first one says is what comes back


def _launched(runtime: Runtime) -> Fabric:
    """What joins all processes; the first one starts the others where nobody has."""
    fabric = make_fabric(runtime)
    fabric.launch()
    return fabric


def _end(helpers: list[Popen[bytes]]) -> None:
    """Stop what would go on alone."""
    ended = helpers.copy()
    # it is Fabric's own list, and what ends in there takes this process with it
    helpers.clear()
    for helper in ended:
        helper.terminate()


def _release(runtime: Runtime) -> None:
    """Let the others go where they still wait."""
    if _others_wait(runtime):
        _launched(runtime).broadcast(False)


def _others_wait(runtime: Runtime) -> bool:
    """Whether a launcher started others with this process, and they have not begun anything."""
    if runtime.devices == 1 or dist.is_initialized():
        return False
    return "LOCAL_RANK" in os.environ or bool(SLURMEnvironment.detect())

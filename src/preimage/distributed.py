"""Batch-wide computations that give several processes the result of one.

Each process holds an equal share of the global batch, in rank order. A scalar computed by every
process from the gathered batch, with gradients averaged over processes afterwards (as DDP does),
has the gradient that one process with the whole batch would have.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from preimage.types import Condition, Prediction, Sample


class _Sum(torch.autograd.Function):
    """Sum over processes; so is its gradient, each process's result being used by its own loss."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


class _Gather(torch.autograd.Function):
    """All processes' rows in rank order; the gradient of a row is summed over all who use it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        # rows as they lie: of images in channels_last some backends would mix up the values
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def _whole(tensor: Tensor) -> Tensor:
    gathered: Tensor = _Gather.apply(tensor)
    return gathered


def gather(fabric: Fabric, sample: Sample) -> Sample:
    """The whole batch's sample on every process, with gradients; the same object for one."""
    if fabric.world_size == 1:
        return sample
    condition = Condition(*(None if part is None else _whole(part) for part in sample.condition))  # type: ignore[arg-type]
    prediction = Prediction(*map(_whole, sample.prediction))
    # half precision is not a type that every backend can gather
    layers = tuple(part._replace(values=_whole(part.values.float())) for part in sample.layers)
    return Sample(_whole(sample.images), condition, prediction, layers)


def smallest(fabric: Fabric, value: float) -> float:
    """The smallest of several processes' values, on each of them."""
    least = torch.tensor(value, device=fabric.device)
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    return float(least)


def share_batch_norm(module: nn.Module, processes: int) -> None:
    """Let every batch norm in `module` take its statistics over this many processes."""
    for part in module.modules():
        if isinstance(part, GlobalBatchNorm2d):
            part.processes = processes


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose training statistics are those of the batch over all processes.

    The same as :class:`torch.nn.BatchNorm2d` on one process; unlike SyncBatchNorm it also runs on
    CPUs. Set `processes` to the number of processes that share the batch.
    """

    processes = 1

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        if not self.training or self.processes == 1:
            return super().forward(x)
        wide = x.float()
        count = self.processes * x.numel() / x.shape[1]
        mean = _Sum.apply(wide.sum((0, 2, 3))) / count
        apart = wide - mean[:, None, None]
        # of the squares' mean less the mean's square, rounding may leave less than nothing
        variance = _Sum.apply(apart.square().sum((0, 2, 3))) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        # written out: F.batch_norm has no gradient through statistics that it is given
        scale = self.weight * (variance + self.eps).rsqrt()
        return (apart * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked += 1

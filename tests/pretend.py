"""A GPU for tests, where there is none."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
# what a GPU allows between devices: copies, indices, and questions about a tensor
_BETWEEN = ("to", "copy_", "__set__", "__get__", "__getitem__", "_has_compatible_shallow_copy_type")


class PretendedGPU(TorchFunctionMode):
    """Tensors that are sent to the GPU say that they are there, and mix with no others.

    All of them stay on the CPU in truth.
    """

    def __init__(self) -> None:
        super().__init__()
        self._there = WeakTensorKeyDictionary()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        given, name = (args, kwargs or {}), func.__name__
        owner = getattr(func, "__self__", None)
        if name == "_parse_to":  # only reads what was asked for
            return func(*args, **given[1])
        if name == "__get__" and owner is Tensor.device:
            return GPU if args[0] in self._there else CPU
        places = {t in self._there for t in tree_leaves(given) if isinstance(t, Tensor) and t.dim()}
        mixed = len(places) == 2 and name not in _BETWEEN
        if mixed or (name == "numpy" and places == {True}):
            raise RuntimeError(f"expected all tensors of {name} on one device, found two")
        real_args, real_kwargs = tree_map(_real, given)
        found = func(*real_args, **real_kwargs)
        if name == "__set__" and owner is Tensor.data:
            self._mark(args[0], args[1] in self._there)
        asked = [d for d in tree_leaves(given) if isinstance(d, torch.device) or _is_name(d)]
        there = torch.device(asked[0]) == GPU if asked else True in places and name != "cpu"
        if (asked or name == "cpu") and args and found is args[0]:
            found = found.view_as(found)  # nothing was moved in truth, but it counts as another
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._mark(tensor, there)
        return found

    def _mark(self, tensor: Tensor, there: bool) -> None:
        if there:
            self._there[tensor] = True
        else:
            self._there.pop(tensor, None)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value in ("cpu", "cuda")


def _real(value: object) -> object:
    return CPU if isinstance(value, torch.device) or _is_name(value) else value

"""Read a network's weights from a file, without ever running code from it."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from preimage.errors import PreimageError

_PREFIX = "module."
"""What data parallelism puts before every name."""
_WRAPPERS = ("state_dict", "model_state_dict", "model", "network")


def load_checkpoint(network: nn.Module, path: str | Path) -> None:
    """Load weights into `network`; every name and shape must fit.

    Args:
        network: changed in place.
        path: a ``.safetensors`` file, or one that ``torch.load(weights_only=True)`` reads: a
            state dict, bare or under a usual key. Names may have a ``module.`` prefix.

    Raises:
        PreimageError: when the file is missing, damaged, holds code, or does not fit.
    """
    wanted = network.state_dict()
    state = _named_as(wanted, _read(Path(path)))
    missing = sorted(_untold(wanted, state))
    unknown = sorted(state.keys() - wanted.keys())
    shapes = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted.keys() & state.keys()
        if state[name].shape != wanted[name].shape
    ]
    problems = [
        f"{len(names)} {what} (first: {names[0]})"
        for names, what in ((missing, "missing"), (unknown, "unknown"), (shapes, "misshapen"))
        if names
    ]
    if problems:
        raise PreimageError(
            f"expected the weights of {type(network).__name__} in '{path}', found tensors "
            f"{', '.join(problems)}; give the checkpoint that belongs to this network"
        )
    network.load_state_dict(state, strict=False)


def take_over(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give `network` those tensors of `state` that fit one of its own in name and shape."""
    own = network.state_dict()
    fitting = {
        name: tensor
        for name, tensor in state.items()
        if name in own and own[name].shape == tensor.shape
    }
    network.load_state_dict(fitting, strict=False)


def _named_as(wanted: Mapping[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state without a ``module.`` prefix where the network does not have one itself."""
    if state.keys() <= wanted.keys() or not all(name.startswith(_PREFIX) for name in state):
        return state
    return {name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}


def _untold(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[str]:
    """Names that the file lacks, except where it says as much under another name.

    Of two names of one tensor a safetensors file holds one alone, and files from before PyTorch
    0.4.1 lack the number of batches, which no network needs for its answers.
    """
    given = {wanted[name].data_ptr() for name in state.keys() & wanted.keys()} - {0}
    for name in wanted.keys() - state.keys():
        shared = wanted[name].numel() > 0 and wanted[name].data_ptr() in given
        if not shared and not name.endswith("num_batches_tracked"):
            yield name


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise PreimageError(
            f"expected a checkpoint file, found none at '{path}'; check --checkpoint"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not _is_pickle(path):
            raise _damaged(path) from error
        raise PreimageError(
            f"expected plain tensors in '{path}', found a pickle that holds other objects or "
            "code, which is never run here; save the network's state_dict() alone, best as "
            ".safetensors"
        ) from error
    # bytes that are no pickle may lead PyTorch's reader to an exception of any kind
    except Exception as error:
        raise _damaged(path) from error
    return _state_dict(content, path)


def _is_pickle(path: Path) -> bool:
    """Whether a file is in one of the two forms that torch.save has."""
    with path.open("rb") as file:
        return zipfile.is_zipfile(path) or file.read(1) == pickle.PROTO


def _damaged(path: Path) -> PreimageError:
    return PreimageError(
        f"expected a readable checkpoint, found a damaged or foreign file '{path}'; "
        "save it again as .safetensors"
    )


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what a file held, its usual wrappings removed."""
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise _no_state_dict(path, type(content).__name__)
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise _no_state_dict(path, f"{type(value).__name__} under the key {name!r}")
    return dict(content)


def _no_state_dict(path: Path, found: str) -> PreimageError:
    return PreimageError(
        f"expected a state dict of tensors by their names in '{path}', found {found}; save the "
        "network's state_dict()"
    )

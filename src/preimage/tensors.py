"""Tensors and a few lines of text as the bytes of a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from preimage.errors import PreimageError

_MISFIT = "loading state_dict"
"""Among the words of the RuntimeError that tensors of other names or shapes raise."""


def pack(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    """A safetensors file; equal content gives equal bytes.

    safetensors itself shuffles the header's texts anew in every process, so that the files of two
    equal runs would differ.
    """
    data = save(_apart(tensors), dict(header))
    end = 8 + int.from_bytes(data[:8], "little")
    fields = json.loads(data[8:end])
    fields["__metadata__"] = dict(sorted(fields["__metadata__"].items()))
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight
    return len(text).to_bytes(8, "little") + text + data[end:]


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each with memory of its own: safetensors refuses one tensor under two names."""
    apart, seen = {}, set[int]()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return apart


def below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the tensors in `state` those whose names begin with `prefix`, named by the rest."""
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


@contextmanager
def understood(path: Path, what: str, advice: str) -> Iterator[None]:
    """Tell content of a file that is not as its format has it in one sentence.

    Args:
        path: the file.
        what: what such a file is called in a message.
        advice: what to do.

    Raises:
        PreimageError: in place of what reading such content raises.
    """
    try:
        yield
    except (
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        RuntimeError,
    ) as error:
        if isinstance(error, RuntimeError) and _MISFIT not in str(error):
            raise
        raise PreimageError(
            f"expected a whole {what} file, found '{path}' damaged ({type(error).__name__}); "
            f"{advice}"
        ) from error


def format_of(path: Path) -> str | None:
    """What the header of a safetensors file names as its format.

    Returns:
        The format's name; None where the header names none, or there is no file that can be read.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {}).get("format")
    except (SafetensorError, OSError):
        return None


def unpack(
    path: Path, form: str, what: str, advice: str
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The header and the tensors of a file whose header says that it is of the format `form`.

    Args:
        path: the file.
        form: what its header must name as its format.
        what: what such a file is called in a message.
        advice: what to do where there is none.

    Raises:
        PreimageError: when the file is missing, damaged or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise PreimageError(
            f"expected a {what} file, found none that can be read at '{path}'; {advice}"
        ) from error
    if header.get("format") != form:
        raise PreimageError(
            f"expected a {what} file of format {form}, found {header.get('format', 'none')} in "
            f"'{path}'; make it again with this version"
        )
    return header, state

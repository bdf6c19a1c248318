"""Tensors and a few lines of text as the bytes of a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping

from safetensors.torch import save
from torch import Tensor


def pack(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    """A safetensors file; equal content gives equal bytes.

    safetensors itself shuffles the header's texts anew in every process, so that the files of two
    equal runs would differ.
    """
    data = save(dict(tensors), dict(header))
    end = 8 + int.from_bytes(data[:8], "little")
    fields = json.loads(data[8:end])
    fields["__metadata__"] = dict(sorted(fields["__metadata__"].items()))
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight
    return len(text).to_bytes(8, "little") + text + data[end:]

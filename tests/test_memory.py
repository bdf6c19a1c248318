"""What the program asks of the C library's memory."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from preimage.memory import keep_freed_memory

_FAULTS = """
import resource, sys, torch
from preimage.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.ones(12_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(60):
    torch.ones(12_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    program = [sys.executable, "-c", _FAULTS, how]
    return int(subprocess.run(program, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_a_large_array_is_not_cleared_page_by_page_each_time():
    assert faults("keep") < faults("as usual") / 5


def test_another_c_library_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert keep_freed_memory() is False

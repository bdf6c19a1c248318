"""What the program asks of the C library's memory."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Names of settings in glibc's malloc.h."""
_MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, to use it again.

    By itself glibc gives every large array back to the system at once. A training step frees and
    allocates the same large arrays again, and each time the system has to clear them page by page:
    about a tenth of an inversion's time on CPUs. The process then holds the most that it ever
    needed until it ends, so this is for a program of its own, not for a library.

    Returns:
        Whether it was done: False where the C library is another one.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _MOST))

"""Memory that a compiled step frees is kept for the next step, instead of being returned to the system and asked for again.

The intermediate values of a convolutional net are megabytes each, and glibc gives back what is freed at the top of the heap as soon
as it is a few megabytes. A step of slim ResNet-18 then has 3,000 page faults, a tenth of its time (`python -m benchmarks B4`).
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform

KEPT = 1 << 30  # bytes that are free at the top of the heap, before any are returned
LARGE = 1 << 25  # bytes of one allocation from which on it is mapped, and returned when it is freed; the most that glibc chooses

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep up to 1 GiB of freed memory, once; whether that was done.

    Only with glibc, and not where its thresholds or another allocator have been chosen by an environment variable.
    """
    if platform.libc_ver()[0] != "glibc" or any(os.environ.get(name) for name in _CHOSEN):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, LARGE)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT))

"""Freed memory is kept from the first compilation on, unless the environment says otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from cl_func.compiler import allocator

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

# Buffers that are freed in every round: with the thresholds of glibc each round faults in all of their pages again. A heap that
# keeps them may still grow by a few buffers in any one round, where a small block of torch's or the compiler's lies between two of
# them, and by none in the others; so the round in the middle tells whether pages are given back.
FAULTS = """
import resource, statistics, sys, torch
import cl_func as cl
if sys.argv[1] == "compiled":
    cl.compile(lambda state, exp: state + 1)(torch.zeros(3), None)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        kept = [torch.ones(1 << 18) for _ in range(20)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(statistics.median([faults() for _ in range(9)]))
"""


def faults(what, **extra):
    env = {name: value for name, value in os.environ.items() if name not in allocator._CHOSEN} | extra
    command = [sys.executable, "-c", FAULTS, what]
    return int(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)


@GLIBC
def test_a_compiled_process_asks_for_no_page_twice():
    # The choice of a user, by which each buffer is mapped; what glibc chooses by itself depends on what lies on top of the heap.
    chosen = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    assert faults("compiled") < 20
    if faults("eager", **chosen) < 2000:
        pytest.skip("this build of torch has an allocator of its own")  # 2.14.1 with CUDA does; so the count cannot tell
    assert faults("compiled", **chosen) > 2000


def test_the_choice_of_the_environment_is_left(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072")
    assert not allocator.keep_freed_memory.__wrapped__()


def test_other_libraries_are_left(monkeypatch):
    for name in allocator._CHOSEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    assert not allocator.keep_freed_memory.__wrapped__()

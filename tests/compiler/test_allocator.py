"""Freed memory is kept from the first compilation on, unless the environment says otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from cl_func.compiler import allocator

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

# Buffers that are freed in every round: with the thresholds of glibc each round faults in all of their pages again. The second may
# still fault in one buffer of 256 pages more, where something of the first, or of the compiler, lies between them on the heap.
FAULTS = """
import resource, sys, torch
import cl_func as cl
if sys.argv[1] == "compiled":
    cl.compile(lambda state, exp: state + 1)(torch.zeros(3), None)
def round():
    for _ in range(10):
        kept = [torch.ones(1 << 18) for _ in range(20)]
round(), round()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
round()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(what, **extra):
    env = {name: value for name, value in os.environ.items() if name not in allocator._CHOSEN} | extra
    command = [sys.executable, "-c", FAULTS, what]
    return int(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)


@GLIBC
def test_a_compiled_process_asks_for_no_page_twice():
    # The choice of a user, by which each buffer is mapped; what glibc chooses by itself depends on what lies on top of the heap.
    chosen = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    assert faults("compiled") < 200
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

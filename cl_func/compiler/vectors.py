"""Which vector instructions inductor may use on this CPU, found out by one small file instead of a library for each kind.

By itself inductor builds a library for each set of instructions that the CPU has (AVX2, AVX-512, VNNI, bfloat16, AMX), and starts
a Python process to load each of them, in every process anew: a third of the time of a cold start.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
from typing import Any

import torch

from cl_func import torch_private


@functools.cache
def vector_options() -> dict[str, Any]:
    """The options that let inductor use this CPU's widest vector instructions, if the C++ compiler takes the flags for them.

    The width of vectors is among them since inductor's cache on disk does not tell programs for one width from those for another:
    one written for AVX-512 is read where AVX2 is used, and computes wrong numbers.
    {} where the compiler does not take the flags, on other CPUs, and where the user has set such an option; then inductor finds out
    by itself.
    """
    size = {"AVX2": 32, "AVX512": 64}.get(torch.backends.cpu.get_cpu_capability())
    if size is None or torch_private.vector_options_are_set():
        return {}
    known = {"cpp.vec_isa_ok": True, "cpp.simdlen": 8 * size}
    compiler, flags = torch_private.vector_flags(known)
    # Without the header of the intrinsics, which takes the compiler ten times as long as all the rest.
    text = f"typedef float v __attribute__((vector_size({size})));\nv f(v a) {{ return a * a + a; }}\n"
    with contextlib.suppress(RuntimeError, OSError):  # no C++ compiler, as may be where only a GPU is used
        command = [compiler(), *flags, "-x", "c++", "-c", "-", "-o", os.devnull]
        if subprocess.run(command, input=text, text=True, capture_output=True, check=False).returncode == 0:
            return known
    torch_private.forget_vector_flags()
    return {}

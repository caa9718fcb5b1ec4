"""How many threads the matrix products of a program use: two threads take longer than one to begin and end a product of few rows.

Products are done by MKL, whose number of threads can be chosen for the thread that calls it alone. Elsewhere nothing is chosen.
"""

from __future__ import annotations

import ctypes
import functools
import math
from typing import Any

import torch
from torch.fx import Graph

from cl_func import torch_private

FEW = 1 << 20  # multiplications of a product; with more, a second thread pays

aten = torch.ops.aten
_PRODUCTS = {aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default}


def small(graph: Graph) -> bool:
    """Whether all matrix products of a graph made by `make_fx` are small."""
    return all(_multiplications(node.args) <= FEW for node in graph.nodes if node.target in _PRODUCTS)


def _multiplications(args: Any) -> int:
    a, b = (x.meta["val"] for x in args[-2:])
    return math.prod(a.shape) * int(b.shape[-1])


@functools.cache
def limit() -> int:
    """The address of the function of MKL that sets the threads of this thread and returns the number before; 0 without MKL.

    Its C name: the function of the same name in lower case is Fortran's, which takes a pointer.
    """
    return torch_private.c_function("MKL_Set_Num_Threads_Local") or 0


class OneThread:
    """A context in which the matrix products of this thread use no other threads, if `wanted`."""

    def __init__(self, wanted: bool) -> None:
        self.set = _setter() if wanted else None

    def __enter__(self) -> None:
        if self.set is not None:
            self.before = self.set(1)

    def __exit__(self, *_: object) -> None:
        if self.set is not None:
            self.set(self.before)


@functools.cache
def _setter() -> Any:
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(limit()) if limit() else None

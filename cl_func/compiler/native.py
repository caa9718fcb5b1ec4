"""Programs on the CPU without Python: a step of a small network is tens of small kernels, which run faster than Python calls them.

A program that overwrites its state finds it at the same addresses in each call of a fold. So after a few calls one is recorded
(`recording.py`): the addresses of its kernels and of their arguments, with intermediate values in memory of the record's own
(`arena.py`). From then on the driver (`driver.py`) takes one step or many, and only the small inputs that differ from step to
step, the rows of a minibatch, are copied. The kernels are those of the program, so the results are equal to the last bit.

It is to the CPU what `cuda_graphs.py` is to a GPU.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cl_func.compiler import driver
from cl_func.compiler.driven import Driven, UnsuitableError, rows_of
from cl_func.compiler.recording import record
from cl_func.compiler.records import Key, Records

CALLS = 3  # with the same addresses, before a call that is recorded
SMALL = 1 << 15  # bytes of an input that is copied when it changes; a larger one is read where it is
KEPT = 16  # records


def recordable(inputs: Sequence[Tensor]) -> bool:
    """Whether all inputs of a program are on the CPU."""
    return bool(inputs) and all(x.device.type == "cpu" for x in inputs)


class Native:
    """A program of inputs on the CPU that overwrites the first n and returns nothing, as records that the driver runs.

    one_thread: whether its matrix products are to use one thread (`threads.py`).
    """

    def __init__(self, program: Callable[..., Any], n: int, one_thread: bool = False) -> None:
        self.program, self.n, self.one_thread = program, n, one_thread
        self.records = Records[Driven](KEPT)
        self.lock = threading.Lock()

    def __call__(self, inputs: Sequence[Tensor]) -> None:
        """Run the program once, as a record if there is one for the addresses of the inputs, or else as it is."""
        key = self._key(inputs)
        with self.lock:
            found = self.records.get(key)
            if found is None and self.records.due(key, CALLS) and self._recorded(key, inputs):
                return
        if found is None:
            self.program(*inputs)
        else:
            addresses = (ctypes.c_int64 * len(found.copied))(*[inputs[i].data_ptr() for i in found.copied])
            found.run(ctypes.addressof(addresses), 1)

    def find(self, inputs: Sequence[Tensor]) -> Driven | None:
        """The record for the addresses of some inputs, if there is one."""
        return None if self.records.refused else self.records.get(self._key(inputs))

    def _key(self, inputs: Sequence[Tensor]) -> Key:
        n = self.n
        return (torch.get_num_threads(), *[x.data_ptr() for i, x in enumerate(inputs) if i < n or x.nbytes > SMALL])

    def _recorded(self, key: Key, inputs: Sequence[Tensor]) -> bool:
        """Record a call; whether it has been made."""
        copied = [i for i, x in enumerate(inputs) if i >= self.n and x.nbytes <= SMALL]
        if driver.steps() is None or any(rows_of(inputs[i]) is None for i in copied):
            self.records.refused = True
            return False
        given = list(inputs)
        for i in copied:
            x = inputs[i]
            given[i] = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype).copy_(x)
        seen = record(self.program, given)
        if seen is None:
            self.records.refused = True
            return False
        try:
            self.records.put(key, Driven(seen, given, copied, self.one_thread))
        except (UnsuitableError, RuntimeError):
            self.records.refused = True
        return True

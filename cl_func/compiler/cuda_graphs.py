"""CUDA graphs of a program: a step of a small network is hundreds of kernels, which a GPU runs faster than a CPU can launch them.

A program that overwrites its state finds it at the same addresses in each call of a fold. So after a few calls its kernels are
recorded, with a place of their own for the small inputs, the rows of an experience; from then on a call copies these there and
launches the record as a whole. Random draws need nothing more, since keys are inputs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cl_func import user_warnings
from cl_func.compiler.records import Key, Records

Record = Callable[[Callable[[], Any]], Callable[[], Any]]  # of kernels that a function launches -> what launches them again

CALLS = 3  # with the same addresses, before a call that is recorded: kernels are loaded, and short folds do not pay for a record
SMALL = 1 << 20  # bytes of an input that is copied with each call; a larger one, a data set, is read where it is
KEPT = 4  # records, each with the memory of the intermediate values


def recordable(inputs: Sequence[Tensor]) -> bool:
    """Whether all inputs of a program are on one GPU."""
    return bool(inputs) and inputs[0].is_cuda and all(x.device == inputs[0].device for x in inputs)


def record(launch: Callable[[], Any]) -> Callable[[], Any]:
    """The kernels that a function launches, as a function that launches them again. Nothing is run."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may go on
        launch()
    return graph.replay


class Replayed:
    """A program of inputs on one GPU that overwrites the first n and returns nothing; once recorded, launched as a whole."""

    def __init__(self, program: Callable[..., Any], n: int, record: Record) -> None:
        self.program, self.n, self.record = program, n, record
        self.records = Records[tuple[list[tuple[int, Tensor]], Callable[[], Any]]](KEPT)
        self.lock = threading.Lock()

    def __call__(self, inputs: Sequence[Tensor]) -> None:
        key = tuple(x.data_ptr() for i, x in enumerate(inputs) if i < self.n or x.nbytes > SMALL)
        with self.lock:
            found = self.records.get(key)
            if found is None and self.records.due(key, CALLS):
                found = self._recorded(key, inputs)
        if found is None:
            self.program(*inputs)
            return
        own, replay = found
        for i, place in own:
            place.copy_(inputs[i])
        replay()

    def _recorded(self, key: Key, inputs: Sequence[Tensor]) -> tuple[list[tuple[int, Tensor]], Callable[[], Any]] | None:
        own = [(i, _place(x)) for i, x in enumerate(inputs) if i >= self.n and x.nbytes <= SMALL]
        given = list(inputs)
        for i, place in own:
            given[i] = place
        try:
            replay = self.record(lambda: self.program(*given))
        except RuntimeError as error:
            self.records.refused = True
            reason = str(error).strip().partition("\n")[0]
            user_warnings.warn(
                f"cl.compile: no CUDA graph can be made of this program, so its kernels are launched one by one: {reason}"
            )
            return None
        self.records.put(key, (own, replay))
        return own, replay


def _place(x: Tensor) -> Tensor:
    """Memory for values like those of a tensor, with its strides, on which the program depends."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)

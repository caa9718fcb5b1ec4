"""A recorded program in the words of the driver, with all that these point to; it takes steps without Python in between."""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from cl_func import torch_private
from cl_func.compiler import arena, driver
from cl_func.compiler.add_product import ADD_PRODUCT, product_operands
from cl_func.compiler.denormals import Flushed
from cl_func.compiler.recording import Call, KernelCall, OperationCall, Recording
from cl_func.compiler.threads import OneThread
from cl_func.torch_private import c_tensor, pytree

LARGE = 1 << 28  # bytes of intermediate values; with more, a step takes much longer than the Python in it

aten = torch.ops.aten
_PRODUCTS = {aten.mm.out: "mm_out", aten.bmm.out: "bmm_out"}
_SUMS = {aten.addmm.out: "addmm_out", aten.baddbmm.out: "baddbmm_out"}


class UnsuitableError(Exception):
    """A recording that the driver cannot run."""


def rows_of(x: Tensor) -> tuple[int, int, int] | None:
    """A tensor as rows of bytes: how many, the bytes of each, and from one to the next; None if it is nothing like that."""
    if x.is_contiguous():
        return 1, x.nbytes, 0
    if x.ndim == 2 and x.stride(1) == 1:
        return x.shape[0], x.shape[1] * x.element_size(), x.stride(0) * x.element_size()
    return None


def index_error(reason: str) -> IndexError | None:
    """The error for a kernel that failed because a number is outside of what it indexes; None if it failed otherwise."""
    if "out of bounds" not in reason:
        return None
    return IndexError(
        "cl.compile: a number is outside of what it indexes, such as a token outside of a vocabulary; without compilation the "
        f"error is where it happens ({reason.strip()})."
    )


class Driven:
    """A recorded program whose inputs stay where they are, but for some that are copied in each step.

    given: the inputs of the recording. copied: which of them are this record's own, to copy the inputs of a step to.
    one_thread: whether its matrix products are to use one thread.
    Raises UnsuitableError for a recording that the driver cannot run.
    """

    def __init__(self, seen: Recording, given: Sequence[Tensor], copied: Sequence[int], one_thread: bool = False) -> None:
        if not seen.complete:
            raise UnsuitableError
        self.copied, self.one_thread = copied, one_thread
        self.kept = [*seen.constants, *(given[i] for i in copied)]
        self.handles = list[c_tensor]()
        self.operations = list[tuple[Any, Any, Any, list[Tensor | None]]]()
        fixed = {x.untyped_storage().data_ptr() for x in (*given, *seen.constants)}
        self.moved = self._arena(seen.calls, fixed)
        words = [word for call in seen.calls for word in self._words(call)]
        places = [word for i in copied for word in (given[i].data_ptr(), *(rows_of(given[i]) or ()))]
        self.code = (ctypes.c_int64 * len(words))(*words)
        self.places = (ctypes.c_int64 * len(places))(*places)
        self.error = ctypes.create_string_buffer(400)
        self.failure: BaseException | None = None
        self.callback = driver.Callback(self._call) if self.operations else driver.Callback()
        self.lock = threading.Lock()

    def run(self, table: int, n: int, seconds: float = 0.0) -> int:
        """Take up to n steps, and no more after some seconds (0: all); the number of steps taken.

        table: the address of words [n, number of copied inputs], the address of each of these inputs in each step.
        Raises what an operation raises, and RuntimeError for a kernel that fails.
        """
        # Whoever comes second must not use the memory of a step that is not finished.
        with self.lock, Flushed(), OneThread(self.one_thread):
            arguments = self.code, len(self.code), self.places, len(self.copied), table, n, seconds
            done: int = driver.steps()(*arguments, self.callback, self.error, len(self.error))
            if done == n or not self.error.value:
                return done
            failure, self.failure = self.failure, None
            reason = self.error.value.decode(errors="replace")
        raise failure or index_error(reason) or RuntimeError(f"cl.compile: a compiled program failed: {reason}")

    def _arena(self, calls: list[Call], fixed: set[int]) -> dict[int, int]:
        """The address of each storage that is made anew in each call, in memory of the record's own."""
        spans = dict[int, tuple[int, int, int]]()
        for at, call in enumerate(calls):
            for x in call.tensors:
                storage = x.untyped_storage()
                start = storage.data_ptr()
                if start not in fixed and storage.nbytes():
                    spans[start] = (storage.nbytes(), spans[start][1] if start in spans else at, at)
        offsets, total = arena.plan(list(spans.values()))
        if total > LARGE:
            raise UnsuitableError
        self.memory = torch.empty(total + arena.ALIGNED, dtype=torch.uint8)
        base = -(-self.memory.data_ptr() // arena.ALIGNED) * arena.ALIGNED
        return {start: base + offset for start, offset in zip(spans, offsets, strict=True)}

    def _address(self, x: Tensor) -> int:
        start = x.untyped_storage().data_ptr()
        return x.data_ptr() - start + self.moved.get(start, start)

    def _handle(self, x: Tensor) -> int:
        self.handles.append(c_tensor(self._address(x), x))
        return self.handles[-1].value

    def _at(self, x: Any) -> Any:
        """A tensor as it is when the program runs: one on that memory, which does not own it. Anything else as it is."""
        if not isinstance(x, Tensor):
            return x
        if not x.numel():
            return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
        span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
        elements = (ctypes.c_char * (span * x.element_size())).from_address(self._address(x))
        return torch.frombuffer(elements, dtype=x.dtype).as_strided(x.shape, x.stride())

    def _words(self, call: Call) -> list[int]:
        """A call in the words of the driver."""
        if isinstance(call, KernelCall):
            if len(call.tensors) > driver.MOST:
                raise UnsuitableError
            return [driver.KERNEL, 1 + len(call.tensors), call.address, *map(self._address, call.tensors)]
        args, out = call.args, cast(Tensor, call.kwargs.get("out"))
        if call.operation in _PRODUCTS:
            return [driver.PRODUCT, 4, _function(_PRODUCTS[call.operation]), *map(self._handle, (out, *args))]
        if call.operation in _SUMS:
            numbers = [_bits(call.kwargs.get(name, 1)) for name in ("beta", "alpha")]
            return [driver.SUM, 7, _function(_SUMS[call.operation]), *map(self._handle, (out, *args)), *numbers]
        number = self._operation(call)
        if call.operation is ADD_PRODUCT:
            return self._add_product(number, *args)
        return [] if number is None else [driver.CALLBACK, 1, number]

    def _add_product(
        self, number: int | None, weight: Tensor, gate: Tensor | None, decay: Tensor | None, a: Tensor, b: Tensor
    ) -> list[int]:
        """`cl_func::add_product`: in the driver where all gates are open and no weight decays, else the operation itself."""
        assert number is not None
        if any(x is not None and not x.is_contiguous() for x in (gate, decay)):
            return [driver.CALLBACK, 1, number]
        gates = (0, 0) if gate is None else (self._address(gate), gate.numel())
        decays = (0, 0, 0) if decay is None else (self._address(decay), decay.numel(), int(decay.dtype == torch.float64))
        weight, a, b = product_operands(weight, a, b)
        name = "addmm_out" if weight.ndim == 2 else "baddbmm_out"
        return [driver.ADD_PRODUCT, 10, *gates, *decays, number, _function(name), *map(self._handle, (weight, a, b))]

    def _operation(self, call: OperationCall) -> int | None:
        """The number of an operation of torch that is called from Python; None for one that only makes a view."""
        given = {x.untyped_storage().data_ptr() for x in pytree.tree_leaves((call.args, call.kwargs)) if isinstance(x, Tensor)}
        out = pytree.tree_leaves(call.out)
        new = [isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in given for x in out]
        if not call.operation._schema.is_mutable and not any(new):
            if not all(isinstance(x, Tensor) for x in out):  # a number, which Python has used
                raise UnsuitableError
            return None
        places = [self._at(x) if fresh else None for x, fresh in zip(out, new, strict=True)]
        args, kwargs = pytree.tree_map(self._at, (call.args, call.kwargs))
        self.operations.append((call.operation, args, kwargs, places))
        return len(self.operations) - 1

    def _call(self, number: int) -> int:
        """Call an operation, from the driver; 1 if it fails."""
        try:
            operation, args, kwargs, places = self.operations[number]
            with torch.no_grad():
                for place, x in zip(places, pytree.tree_leaves(operation(*args, **kwargs)), strict=True):
                    if place is not None:
                        place.copy_(x)
        except BaseException as error:  # raised again when the driver has returned
            self.failure = error
            return 1
        return 0


def _function(name: str) -> int:
    found = torch_private.c_function(f"aoti_torch_cpu_{name}")
    if found is None:
        raise UnsuitableError
    return found


def _bits(number: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", float(number)))[0])

"""The Python function that inductor has generated for a graph on the CPU, and the kernels that it calls."""

from __future__ import annotations

import ctypes
import re
import types
from collections.abc import Callable
from typing import Any

from torch import Tensor

# What generated code uses beside kernels: it allocates, makes views, checks shapes, or leads to operations of torch.
_HARMLESS = {
    *("empty_strided_cpu", "reinterpret_tensor", "assert_size_stride", "assert_size_stride_grouped", "assert_alignment"),
    *("extern_kernels", "torch", "aten", "device"),
}


def generated(
    compiled: Any, wrap: Callable[[Callable[..., Any], int], Any]
) -> tuple[Callable[[list[Tensor]], Any], list[Tensor]] | None:
    """The Python function that inductor has generated for a compiled graph on the CPU, as a copy in which its kernels are wrapped.

    The function takes a list of inputs, which it empties. wrap(kernel, address): what is called in place of a kernel, given the
    Python function that calls it with tensors, and the address of the C function, which takes pointers to their elements.
    Returns that copy, and the tensors that it uses beside its inputs; None where that function is not found, or where it may do
    more than to call such kernels and operations of torch.
    """
    graph = _search(compiled, "CompiledFxGraph")
    call = getattr(graph, "current_callable", None)
    function = getattr(call, "__func__", call)
    if not isinstance(function, types.FunctionType) or function.__closure__:
        return None
    known, constants = dict(function.__globals__), list[Tensor]()
    for name in {*function.__code__.co_names} & known.keys():
        value = known[name]
        if isinstance(value, Tensor):
            constants.append(value)
        elif name not in _HARMLESS:
            address = _kernel_address(value)
            if address is None:
                return None
            known[name] = wrap(value, address)
    copy: Any = types.FunctionType(function.__code__, known, function.__name__, function.__defaults__)
    return (copy if function is call else types.MethodType(copy, getattr(call, "__self__", None))), constants


def _search(root: Any, name: str) -> Any:
    """The object whose class has a name, among those that a function is closed over and their attributes; None if there is none."""
    waiting, seen = [root], set[int]()
    while waiting and len(seen) < 1000:
        value = waiting.pop(0)
        if id(value) in seen or not callable(value):
            continue
        if type(value).__name__ == name:
            return value
        seen.add(id(value))
        for cell in getattr(value, "__closure__", None) or ():
            try:
                waiting.append(cell.cell_contents)
            except ValueError:  # empty
                continue
        waiting += [getattr(value, "__self__", None), getattr(value, "func", None), *getattr(value, "__dict__", {}).values()]
    return None


def _kernel_address(kernel: Any) -> int | None:
    """The address of the C function behind a compiled kernel; None if this is no such kernel."""
    module = getattr(kernel, "__self__", None)
    path = getattr(module, "__file__", None)
    if not isinstance(kernel, types.BuiltinFunctionType) or not path or not re.fullmatch(r"kernel(_\d+)?", kernel.__name__):
        return None
    return ctypes.cast(getattr(ctypes.CDLL(path), kernel.__name__), ctypes.c_void_p).value

"""A device that no machine has, on which functions run with fake tensors, to find what names another device or waits for one.

Fake tensors have shapes, dtypes and a device, but no values. So a tensor that a function makes on the CPU meets those on the
device, a value that it asks for is missing, and a copy back to the CPU is noticed. No accelerator is needed, and whatever is found
would have failed on one, or have waited for it at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cl_func import tree
from cl_func.compiler import tracing
from cl_func.torch_private import TorchDispatchMode, fake_tensors
from cl_func.tree import PyTree

# A device type that every build of torch knows and none uses; with an index, since torch.tensor(0, device=...) adds one.
DEVICE = torch.device("lazy:0")
FIX = "make tensors where the others are: torch.zeros(n, device=exp.rows.device), x.new_zeros(n)"


def device_fault(function: Callable[..., PyTree], *inputs: PyTree, out: PyTree) -> str | None:
    """What keeps a function from running on another device, in words; None if nothing does.

    inputs: its arguments, trees of tensors on the CPU. out: what it returns for them.
    """
    # Constants that a function holds stay real: it may move them itself.
    mode = fake_tensors()

    def fake(leaf: Tensor) -> Tensor:
        return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=DEVICE)

    with mode:
        arguments = [tree.map(fake, part) for part in inputs]
    try:
        with mode, _RefuseCopiesBack():
            fake_out = function(*arguments)
    except Exception as error:
        return f"{_reason(error)}, in {tracing.users_line(error)}"
    for (path, leaf), expected in zip(tree.items(fake_out), tree.leaves(out), strict=True):
        if isinstance(leaf, Tensor) and leaf.device != DEVICE:
            return f"{path or 'the result'} is on {leaf.device}, though all inputs are on another device; {FIX}"
        if tree.describe(leaf) != tree.describe(expected):
            return f"{path or 'the result'} is {tree.describe(leaf)} there and {tree.describe(expected)} on the CPU"
    return None


class _CopyBackError(Exception):
    pass


class _RefuseCopiesBack(TorchDispatchMode):
    """Raises _CopyBackError where an operation copies from the device to the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if _device_types(out) == {"cpu"} and DEVICE.type in _device_types((args, kwargs)):
            raise _CopyBackError(f"a tensor is moved from its device to the CPU, by {func}")
        return out


def _device_types(values: Any) -> set[str]:
    return {leaf.device.type for leaf in tree.leaves(values) if isinstance(leaf, Tensor)}


def _reason(error: Exception) -> str:
    if isinstance(error, _CopyBackError):
        return str(error)
    if type(error).__name__ == "FakeTensorDeviceMismatchError":
        return f"a tensor on the CPU meets those of the device ({FIX})"
    reason = tracing.reason(error)
    if reason is not None:
        return f"{reason}, so that it waits for the device. {tracing.FIXES[reason]}"
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"

"""A device that no machine has, where functions run on fake tensors: what names another device, or waits for one, is found.

Fake tensors have shapes, dtypes and a device, and no values. So on the way through a function a tensor made on the processor meets
those on the device, a value that is asked for is not there, and what comes back from the device is seen. It takes no accelerator,
and what it finds would have failed, or have waited at every step, on one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cl_func import tree
from cl_func.compiler import tracing
from cl_func.torch_private import TorchDispatchMode, fake_tensors

# A device type that every build of torch knows and none uses; with its number, since torch.tensor(0, device=...) adds one.
DEVICE = torch.device("lazy:0")
FIX = "make tensors where the others are: torch.zeros(n, device=exp.rows.device), x.new_zeros(n)"


def device_fault(function: Callable[..., Any], *given: Any, out: Any) -> str | None:
    """What keeps a function from running on another device, in words; None if nothing does.

    given: its arguments, trees of tensors on the processor. out: what it returns for them there.
    """
    # Constants that a function closes over stay real: it may move them itself.
    mode = fake_tensors()

    def fake(leaf: Tensor) -> Tensor:
        return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=DEVICE)

    with mode:
        arguments = [tree.map(fake, part) for part in given]
    try:
        with mode, _Watch():
            found = function(*arguments)
    except Exception as error:
        return f"{_reason(error)}, in {tracing.users_line(error)}"
    for (path, leaf), there in zip(tree.items(found), tree.leaves(out), strict=True):
        if isinstance(leaf, Tensor) and leaf.device != DEVICE:
            return f"{path or 'the result'} is on {leaf.device}, though all that was given is on another device; {FIX}"
        if tree.describe(leaf) != tree.describe(there):
            return f"{path or 'the result'} is {tree.describe(leaf)} there and {tree.describe(there)} on the processor"
    return None


class _Waits(Exception):  # noqa: N818 - told as the law that is broken
    pass


class _Watch(TorchDispatchMode):
    """Raises _Waits where an operation brings back what is on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if _places(out) == {"cpu"} and DEVICE.type in _places((args, kwargs)):
            raise _Waits(f"a tensor is moved from its device to the processor, by {func}")
        return out


def _places(values: Any) -> set[str]:
    return {leaf.device.type for leaf in tree.leaves(values) if isinstance(leaf, Tensor)}


def _reason(error: Exception) -> str:
    if isinstance(error, _Waits):
        return str(error)
    if type(error).__name__ == "FakeTensorDeviceMismatchError":
        return f"a tensor on the processor meets those of the device ({FIX})"
    why = tracing.reason(error)
    if why is not None:
        return f"{why}, so that it waits for the device. {tracing.FIXES[why]}"
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"

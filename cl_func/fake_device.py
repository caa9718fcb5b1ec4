"""Running functions as on an accelerator, without one: on fake tensors, which have shape, dtype and device, and no values.

They are on the device "meta", the only one besides the processor that every build of torch can differentiate and index on. For fake
tensors it is a device like any other: what mixes it with the processor, or asks for a value, is an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from cl_func import tree

DEVICE = "meta"


@contextlib.contextmanager
def fake_device() -> Iterator[None]:
    """Within it, new tensors are fake, and tensors from outside are taken for fake ones where they are."""
    from torch._subclasses import FakeTensorMode  # slow to import

    with FakeTensorMode(allow_non_fake_inputs=True), _Accelerator():
        yield


def moved(value: Any) -> Any:
    """A tree with each tensor replaced by a fake one on the fake device; within `fake_device`."""
    return tree.map(lambda x: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=DEVICE), value)


class _Accelerator(TorchFunctionMode):
    """Lets the fake device pass for one that holds values, and refuses what would have to wait for it: a copy to the processor."""

    is_meta = Tensor.is_meta.__get__  # type: ignore[attr-defined]

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function == self.is_meta:
            return False
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        if isinstance(out, Tensor) and out.device.type == "cpu" and any(map(_there, _pytree.tree_leaves((args, kwargs)))):
            raise RuntimeError("a tensor is copied from the device to the processor")
        return out


def _there(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == DEVICE

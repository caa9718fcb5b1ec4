"""Opaque operations: one node of a compiled program, and under vmap a loop over the lanes.

For small solvers inside an update: a loop whose length depends on the data, or one that would take minutes to compile unrolled. No
gradient passes through. (`torch.library.custom_op` does the same, but imports dynamo at the first call.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def opaque(inputs: str, like: Callable[..., Tensor]) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator: make a function of tensors an opaque operation.

    inputs: the names of its tensors, such as "rows, group". like: a function of the same tensors that returns a tensor of the
    shape and dtype of the result, whatever its values. The result is made contiguous, as a compiled program takes it to be.
    """

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        name = f"cl_func::{function.__name__}"
        torch.library.define(name, f"({', '.join(f'Tensor {x.strip()}' for x in inputs.split(','))}) -> Tensor")

        def contiguous(*inputs: Tensor) -> Tensor:
            return function(*inputs).contiguous()

        def fake(*inputs: Tensor) -> Tensor:
            return like(*inputs).contiguous()

        torch.library.impl(name, "CompositeExplicitAutograd")(contiguous)
        torch.library.register_fake(name)(fake)
        operation: Callable[..., Tensor] = getattr(torch.ops.cl_func, function.__name__)

        def lanes(info: Any, in_dims: Any, *inputs: Tensor) -> tuple[Tensor, int]:
            def lane(i: int) -> list[Tensor]:
                return [x if d is None else x.select(d, i) for x, d in zip(inputs, in_dims, strict=True)]

            return torch.stack([operation(*lane(i)) for i in range(info.batch_size)]), 0

        torch.library.register_vmap(name, lanes)
        return operation

    return register

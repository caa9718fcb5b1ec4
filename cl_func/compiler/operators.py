"""Operations that no transformation looks into: one node of a compiled program, a loop over the lanes in a vmapped one.

For small solvers inside an update: a loop whose length depends on the data, or one that unrolled would take minutes to compile. No
gradient passes through. (It is what `torch.library.custom_op` does, without the import of dynamo at the first call.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def opaque(inputs: str, like: Callable[..., Tensor]) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator: a function of tensors as such an operation.

    inputs: the names of its tensors, such as "rows, group". like: a function of the same tensors whose result has the shape
    and dtype of the function's.
    """

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        name = f"cl_func::{function.__name__}"
        torch.library.define(name, f"({', '.join(f'Tensor {x.strip()}' for x in inputs.split(','))}) -> Tensor")
        torch.library.impl(name, "CompositeExplicitAutograd")(function)
        torch.library.register_fake(name)(like)
        operation: Callable[..., Tensor] = getattr(torch.ops.cl_func, function.__name__)

        def lanes(info: Any, in_dims: Any, *given: Tensor) -> tuple[Tensor, int]:
            def lane(i: int) -> list[Tensor]:
                return [x if d is None else x.select(d, i) for x, d in zip(given, in_dims, strict=True)]

            return torch.stack([operation(*lane(i)) for i in range(info.batch_size)]), 0

        torch.library.register_vmap(name, lanes)
        return operation

    return register

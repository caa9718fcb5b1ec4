"""Opaque operations: one node of a compiled program, and under vmap a loop over the lanes.

For small solvers inside an update: a loop whose length depends on the data, or one that would take minutes to compile unrolled.
They cannot be differentiated, and say so. (`torch.library.custom_op` is as much, but imports dynamo at the first call.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from cl_func.torch_private import below_autograd


def _refuse_derivatives(function: Callable[..., Tensor]) -> None:
    """Make it an error to ask for a gradient or a tangent of the operation's result: left alone, torch takes it as 0."""
    operation: Callable[..., Tensor] = getattr(torch.ops.cl_func, function.__name__)

    def autograd(*inputs: Tensor) -> Tensor:
        with below_autograd():
            result = operation(*inputs)
        if result.is_floating_point() and any(map(_has_derivative, inputs)):
            raise NotImplementedError(
                f"{function.__module__} ({function.__name__}) cannot be differentiated, but what it is given depends on the input "
                "of torch.func.grad, jvp or backward; take finite differences, or compare a few values: cl.grid({path: values})."
            )
        return result

    torch.library.impl(f"cl_func::{function.__name__}", "Autograd")(autograd)


def _has_derivative(x: Tensor) -> bool:
    return (x.requires_grad and torch.is_grad_enabled()) or forward_ad.unpack_dual(x).tangent is not None


def opaque(
    inputs: str, like: Callable[..., Tensor], batched: bool = False
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator: make a function of tensors an opaque operation.

    inputs: the names of its tensors, such as "rows, group". like: a function of the same tensors that returns a tensor of the
    shape and dtype of the result, whatever its values. The result is made contiguous, as a compiled program takes it to be.
    batched: whether the function takes all lanes at once, on a leading axis of each tensor; else it is called for each lane.
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
        _refuse_derivatives(function)
        operation: Callable[..., Tensor] = getattr(torch.ops.cl_func, function.__name__)

        def lanes(info: Any, in_dims: Any, *inputs: Tensor) -> tuple[Tensor, int]:
            def lane(i: int) -> list[Tensor]:
                return [x if d is None else x.select(d, i) for x, d in zip(inputs, in_dims, strict=True)]

            if batched:
                size, given = info.batch_size, zip(inputs, in_dims, strict=True)
                return operation(*(x.expand(size, *x.shape) if d is None else x.movedim(d, 0) for x, d in given)), 0
            return torch.stack([operation(*lane(i)) for i in range(info.batch_size)]), 0

        torch.library.register_vmap(name, lanes)
        return operation

    return register

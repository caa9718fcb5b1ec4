"""All of torch's private and experimental API that this library uses, and nothing else: what to look at when torch changes.

Public API has no word for these: whether a transformation is under way, fake tensors, the graph of a function, and inductor without
dynamo in front of it. `docs/torch-upgrade.md` says what depends on each; a test per function keeps what is expected of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._C._functorch import (
    get_unwrapped,
    is_functorch_wrapped_tensor,
    is_gradtrackingtensor,
    peek_interpreter_stack,
)
from torch.nn.modules.batchnorm import _BatchNorm as BatchNormBase
from torch.nn.modules.dropout import _DropoutNd as DropoutBase
from torch.nn.modules.instancenorm import _InstanceNorm as InstanceNormBase
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "BatchNormBase",
    "DropoutBase",
    "InstanceNormBase",
    "TorchDispatchMode",
    "compile_graph",
    "fake_tensors",
    "has_gradient_level",
    "in_dispatch_mode",
    "in_transform",
    "inductor",
    "is_wrapped",
    "pytree",
    "storage_id",
    "trace",
    "unwrap",
    "vector_tools",
]

_peek, _modes = peek_interpreter_stack, torch._C._len_torch_dispatch_stack


def in_transform() -> bool:
    """Whether torch.func.vmap, grad, jvp or functionalize is calling."""
    return _peek() is not None


def in_dispatch_mode() -> bool:
    """Whether a TorchDispatchMode, such as that of fake tensors or of make_fx, is on."""
    return bool(_modes())


def is_wrapped(value: Tensor) -> bool:
    """Whether a tensor is one of a torch.func transformation's own, around another."""
    return is_functorch_wrapped_tensor(value)


def unwrap(value: Tensor) -> Tensor:
    """The tensor within one that is wrapped: of vmap's, that of all lanes."""
    return get_unwrapped(value)


def has_gradient_level(value: Tensor) -> bool:
    """Whether torch.func.grad follows a tensor at its innermost level."""
    return is_gradtrackingtensor(value)


def storage_id(value: Tensor) -> int:
    """Which memory a tensor is a view of, also one that is fake and has none."""
    return value.untyped_storage()._cdata


@functools.cache
def inductor() -> Any:
    """torch._inductor and all that tracing needs, imported here and not one by one later."""
    import torch._inductor.compile_fx
    import torch._subclasses
    import torch.fx.experimental.proxy_tensor
    import torch.fx.experimental.symbolic_shapes

    return torch._inductor


def fake_tensors(*, static: bool = False) -> Any:
    """A mode in which new tensors have shapes and no values; real ones that are closed over stay real.

    static: with a ShapeEnv in which no shape is dynamic; without one inductor does not use its cache on disk.
    """
    from torch._subclasses import FakeTensorMode  # slow to import

    if not static:
        return FakeTensorMode(allow_non_fake_inputs=True)
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    shapes = ShapeEnv(allow_scalar_outputs=False, allow_dynamic_output_shape_ops=False)
    return FakeTensorMode(allow_non_fake_inputs=True, shape_env=shapes)


def trace(function: Callable[[list[Tensor]], list[Tensor]], inputs: list[Tensor]) -> torch.fx.GraphModule:
    """The graph of a function of fake tensors, through the transformations of torch.func."""
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(lambda *leaves: function(list(leaves)), tracing_mode="fake")(*inputs)


def compile_graph(graph: torch.fx.GraphModule, inputs: list[Tensor], options: dict[str, Any]) -> Callable[..., Any]:
    """A graph as compiled code. Straight to inductor: what dynamo adds, capture and guards, costs as much as a small step."""
    compiled: Callable[..., Any] = inductor().compile(graph, inputs, options=options)
    return compiled


def vector_tools() -> tuple[Any, Any, Any]:
    """Inductor's `config`, `cpp_builder` and `cpu_vec_isa`, which choose the compiler and its vector instructions."""
    from torch._inductor import config, cpp_builder, cpu_vec_isa  # slow to import

    return config, cpp_builder, cpu_vec_isa

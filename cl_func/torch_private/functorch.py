"""Transformations of torch.func, dispatch modes, pytrees, base classes and initialisers of layers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._C import _AutoDispatchBelowAutograd as below_autograd
from torch._C._functorch import (
    TransformType,
    get_unwrapped,
    is_functorch_wrapped_tensor,
    is_gradtrackingtensor,
    peek_interpreter_stack,
)
from torch.autograd import forward_ad
from torch.nn.modules.batchnorm import _BatchNorm as BatchNormBase
from torch.nn.modules.dropout import _DropoutNd as DropoutBase
from torch.nn.modules.instancenorm import _InstanceNorm as InstanceNormBase
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "BatchNormBase",
    "DropoutBase",
    "InstanceNormBase",
    "TorchDispatchMode",
    "below_autograd",
    "has_gradient_level",
    "in_dispatch_mode",
    "in_transform",
    "is_differentiated",
    "is_eager_cpu",
    "is_wrapped",
    "pytree",
    "stop_gradient",
    "storage_id",
    "truncated_normal",
    "unwrap",
    "unwrap_all",
]

_peek, _modes = peek_interpreter_stack, torch._C._len_torch_dispatch_stack


def in_transform() -> bool:
    """Whether the code runs inside torch.func.vmap, grad, jvp or functionalize."""
    return _peek() is not None


def in_dispatch_mode() -> bool:
    """Whether a TorchDispatchMode is active, such as that of fake tensors or of make_fx."""
    return bool(_modes())


def is_wrapped(value: Tensor) -> bool:
    """Whether a tensor is a wrapper that a torch.func transformation has put around another one."""
    return is_functorch_wrapped_tensor(value)


def unwrap(value: Tensor) -> Tensor:
    """The tensor inside a wrapper; inside one of vmap's, the tensor of all lanes."""
    return get_unwrapped(value)


def is_eager_cpu(value: Tensor) -> bool:
    """Whether a tensor is a plain CPU tensor outside of any transformation, so that reading its value costs nothing.

    Eager code may then take a shortcut to the same result; code that is vmapped, traced or differentiated from outside may not.
    """
    return (
        value.device.type == "cpu"
        and not value.requires_grad
        and not in_transform()
        and not in_dispatch_mode()
        and not torch.compiler.is_compiling()
    )


def unwrap_all(value: Tensor) -> Tensor:
    """The tensor beneath all wrappers of torch.func's transformations: for a vmapped tensor, all of its lanes."""
    while is_wrapped(value):
        value = unwrap(value)
    return value


def has_gradient_level(value: Tensor) -> bool:
    """Whether torch.func.grad tracks a tensor at its innermost level."""
    return is_gradtrackingtensor(value)


def is_differentiated(value: Tensor) -> bool:
    """Whether a gradient or a tangent, at any level, follows a tensor; dynamo, which cannot look into wrappers, is told not."""
    if torch.compiler.is_compiling():
        return False
    while is_wrapped(value):
        if is_gradtrackingtensor(value):
            return True
        value = unwrap(value)
    return value.requires_grad or forward_ad.unpack_dual(value).tangent is not None


def stop_gradient(value: Tensor) -> Tensor:
    """A tensor as a constant of the innermost gradient: that of a loss, or of autograd where no transformation is active.

    `detach` would make it one of all gradients and tangents: that of a whole run with respect to a hyperparameter would be wrong.
    """
    interpreter = None if torch.compiler.is_compiling() else _peek()
    if interpreter is None:
        return value.detach()
    if interpreter.key() == TransformType.Grad and is_gradtrackingtensor(value):
        return get_unwrapped(value)
    return value.detach() if unwrap_all(value).requires_grad else value


def storage_id(value: Tensor) -> int:
    """An id of the storage that a tensor is a view of; fake tensors have one too."""
    return value.untyped_storage()._cdata


@contextlib.contextmanager
def truncated_normal(function: Callable[..., Tensor]) -> Iterator[None]:
    """A context in which `nn.init.trunc_normal_`, by whatever name it was imported, draws by another function."""
    torchs = torch.nn.init._no_grad_trunc_normal_
    torch.nn.init._no_grad_trunc_normal_ = function
    try:
        yield
    finally:
        torch.nn.init._no_grad_trunc_normal_ = torchs

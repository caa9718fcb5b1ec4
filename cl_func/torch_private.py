"""All of torch's private and experimental API that this library uses, and nothing else: the file to look at when torch changes.

The public API offers no way to ask whether a transformation is active, to make fake tensors, to trace a function to a graph, or to
call inductor without dynamo in front of it. `docs/torch-upgrade.md` says what depends on each function; each has a test.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import types
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
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
    "build",
    "c_function",
    "c_tensor",
    "compile_graph",
    "fake_tensors",
    "generated",
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


def has_gradient_level(value: Tensor) -> bool:
    """Whether torch.func.grad tracks a tensor at its innermost level."""
    return is_gradtrackingtensor(value)


def storage_id(value: Tensor) -> int:
    """An id of the storage that a tensor is a view of; fake tensors have one too."""
    return value.untyped_storage()._cdata


@functools.cache
def inductor() -> ModuleType:
    """torch._inductor, imported together with all that tracing needs, so that nothing is imported halfway through it."""
    import torch._inductor.compile_fx
    import torch._subclasses
    import torch.fx.experimental.proxy_tensor
    import torch.fx.experimental.symbolic_shapes

    return torch._inductor


def fake_tensors(*, static: bool = False) -> AbstractContextManager[Any]:
    """A mode in which new tensors have shapes but no values; real tensors that are closed over stay real.

    static: use a ShapeEnv in which no shape is dynamic; inductor uses its cache on disk only with one.
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
    """Compile a graph with inductor, without dynamo, whose capture and guards cost as much as a small step."""
    compiled: Callable[..., Any] = inductor().compile(graph, inputs, options=options)
    return compiled


def vector_tools() -> tuple[Any, Any, Any]:
    """Inductor's `config`, `cpp_builder` and `cpu_vec_isa`, which choose the compiler and its vector instructions."""
    from torch._inductor import config, cpp_builder, cpu_vec_isa  # slow to import

    return config, cpp_builder, cpu_vec_isa


# What generated code uses beside kernels: it allocates, makes views, checks shapes, or leads to operations of torch.
_HARMLESS = {
    *("empty_strided_cpu", "reinterpret_tensor", "assert_size_stride", "assert_alignment"),
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
    if not isinstance(kernel, types.BuiltinFunctionType) or not path or kernel.__name__ != "kernel":
        return None
    return ctypes.cast(ctypes.CDLL(path).kernel, ctypes.c_void_p).value


@functools.cache
def build(source: str) -> ctypes.CDLL | None:
    """A library built of C++ source with inductor's builder, which keeps it in its cache on disk; None where that fails."""
    try:
        from torch._inductor.codecache import CppCodeCache  # slow to import

        library = CppCodeCache.load(source)
    except Exception:  # whatever the compiler says, there is another way to run
        return None
    return library if isinstance(library, ctypes.CDLL) else None


@functools.cache
def _torch_library() -> ctypes.CDLL:
    suffix = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
    name = "torch_cpu" if sys.platform == "win32" else "libtorch_cpu"
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / f"{name}{suffix}"))


def c_function(name: str) -> int | None:
    """The address of a function of torch's C interface for compiled code, such as "aoti_torch_cpu_mm_out"; None if it has none."""
    try:
        return ctypes.cast(getattr(_torch_library(), name), ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None


class c_tensor:  # noqa: N801
    """A handle of torch's C interface on elements at an address, with shape, strides and dtype of a tensor; it owns no memory."""

    def __init__(
        self, address: int, like: Tensor, shape: Sequence[int] | None = None, strides: Sequence[int] | None = None
    ) -> None:
        library, handle = _torch_library(), ctypes.c_void_p()
        shape, strides = like.shape if shape is None else shape, like.stride() if strides is None else strides
        words = ctypes.c_int64 * len(shape)
        dtype = getattr(library, f"aoti_torch_dtype_{str(like.dtype).removeprefix('torch.')}")()
        failed = library.aoti_torch_create_tensor_from_blob(
            ctypes.c_void_p(address),
            ctypes.c_int64(len(shape)),
            words(*shape),
            words(*strides),
            ctypes.c_int64(0),
            ctypes.c_int32(dtype),
            ctypes.c_int32(library.aoti_torch_device_type_cpu()),
            ctypes.c_int32(0),
            ctypes.byref(handle),
        )
        if failed or not handle.value:
            raise RuntimeError("torch gave no handle for a tensor")
        self.value: int = handle.value
        weakref.finalize(self, library.aoti_torch_delete_tensor_object, handle)

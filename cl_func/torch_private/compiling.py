"""Tracing to a graph, and torch's compiler without dynamo."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


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
    compiler = inductor()
    from cl_func.torch_private.kernels import together  # slow to import

    with together():
        compiled: Callable[..., Any] = compiler.compile(graph, inputs, options=options)
    return compiled


def vector_options_are_set() -> bool:
    """Whether the user has told inductor which vector instructions to use, as by TORCHINDUCTOR_VEC_ISA_OK=0."""
    from torch._inductor import config  # slow to import

    return config.cpp.vec_isa_ok is not None or config.cpp.simdlen is not None


def vector_flags(options: dict[str, Any]) -> tuple[Callable[[], str], list[str]]:
    """What finds the C++ compiler, and the flags for the widest vector instructions that this CPU has.

    That the compiler knows these instructions is not tried but believed, also by inductor from now on, given these options of it.
    """
    from torch._inductor import config, cpp_builder, cpu_vec_isa  # slow to import

    kind: Any = cpu_vec_isa.VecISA
    tried = kind.check_build
    kind.check_build = lambda isa, code: True
    try:
        with config.patch(options):
            return cpp_builder.get_cpp_compiler, cpu_vec_isa.pick_vec_isa().build_arch_flags().split()
    finally:
        kind.check_build = tried


def forget_vector_flags() -> None:
    """Undo `vector_flags`: inductor will try by itself what the compiler knows."""
    from torch._inductor import cpu_vec_isa

    cpu_vec_isa.valid_vec_isa_list.cache_clear()
    for isa in cpu_vec_isa.supported_vec_isa_list:
        for found in ("_is_avx512_bf16_supported", "_is_amx_fp16_supported"):
            if hasattr(isa, found):
                setattr(isa, found, False)
        for method in [m for kind in type(isa).__mro__ for m in vars(kind).values()]:
            getattr(method, "cache_clear", int)()

"""All of torch's private and experimental API that this library uses, and nothing else: the folder to look at when torch changes.

The public API offers no way to ask whether a transformation is active, to make fake tensors, to trace a function to a graph, or to
call inductor without dynamo in front of it. `docs/torch-upgrade.md` says what depends on each function; each has a test.
"""

from cl_func.torch_private.compiling import (
    compile_graph,
    fake_tensors,
    forget_vector_flags,
    inductor,
    trace,
    vector_flags,
    vector_options_are_set,
)
from cl_func.torch_private.functorch import (
    BatchNormBase,
    DropoutBase,
    InstanceNormBase,
    TorchDispatchMode,
    below_autograd,
    has_gradient_level,
    in_dispatch_mode,
    in_transform,
    is_differentiated,
    is_eager_cpu,
    is_wrapped,
    pytree,
    stop_gradient,
    storage_id,
    truncated_normal,
    unwrap,
    unwrap_all,
)
from cl_func.torch_private.libraries import build, c_function, c_tensor
from cl_func.torch_private.programs import generated

__all__ = [
    "BatchNormBase",
    "DropoutBase",
    "InstanceNormBase",
    "TorchDispatchMode",
    "below_autograd",
    "build",
    "c_function",
    "c_tensor",
    "compile_graph",
    "fake_tensors",
    "forget_vector_flags",
    "generated",
    "has_gradient_level",
    "in_dispatch_mode",
    "in_transform",
    "inductor",
    "is_differentiated",
    "is_eager_cpu",
    "is_wrapped",
    "pytree",
    "stop_gradient",
    "storage_id",
    "trace",
    "truncated_normal",
    "unwrap",
    "unwrap_all",
    "vector_flags",
    "vector_options_are_set",
]

"""What a compiled program does in one call: its kernels and the operations of torch that it calls, in order, with their tensors.

Inductor's program for the CPU is a Python function that allocates tensors and calls compiled kernels and operations. Shapes are
fixed, so it makes the same calls each time; only the memory differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from cl_func import torch_private, tree
from cl_func.torch_private import TorchDispatchMode, pytree


@dataclasses.dataclass(frozen=True)
class KernelCall:
    """A call of a compiled kernel, which takes the addresses of some tensors."""

    address: int
    tensors: tuple[Tensor, ...]


@dataclasses.dataclass(frozen=True)
class OperationCall:
    """A call of an operation of torch, such as aten.mm.out."""

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Its operands and results."""
        return tuple(x for x in pytree.tree_leaves((self.args, self.kwargs, self.out)) if isinstance(x, Tensor))


Call = KernelCall | OperationCall


class _Operations(TorchDispatchMode):
    """A mode in which operations of torch are recorded."""

    def __init__(self, calls: list[Call]) -> None:
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls.append(OperationCall(func, tuple(args), dict(kwargs or {}), out))
        return out


@dataclasses.dataclass(frozen=True)
class Recording:
    """One call of a program: its calls in order, and the tensors that it uses beside its inputs, which must be kept."""

    calls: list[Call]
    constants: list[Tensor]
    complete: bool  # whether the calls are all that the program does


def record(compiled: Callable[..., Any], inputs: Sequence[Tensor]) -> Recording | None:
    """Call a compiled program once and record it; None, and no call, for a program whose calls cannot be seen."""
    calls = list[Call]()
    pointers = True

    def wrap(kernel: Callable[..., Any], address: int) -> Callable[..., Any]:
        def called(*tensors: Any) -> None:
            nonlocal pointers
            kernel(*tensors)
            pointers &= all(isinstance(x, Tensor) for x in tensors)
            calls.append(KernelCall(address, tensors))

        return called

    found = torch_private.generated(compiled, wrap)
    if found is None:
        return None
    function, constants = found
    try:
        with _Operations(calls):
            out = function(list(inputs))
    except ValueError as error:
        if "values to unpack" not in str(error):
            raise
        return None  # it takes tensors that a function of the user's makes, such as torch.tensor([1.0, 2.0]), as further inputs
    return Recording(calls, constants, pointers and not tree.leaves(out))

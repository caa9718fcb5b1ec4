"""One function of (state, exp) as one compiled program: traced once with `make_fx`, rewritten, and handed to inductor.

A program is valid for one structure and one set of shapes, strides, dtypes and devices of its inputs; `transforms.Compiled` keeps
one for each. With donation it ends by copying the new state over the old one, which functionalization turns into in-place writes.

Tracing runs the function on fake tensors, which have shapes but no values: nothing is copied, however large the data set, and a
function whose shapes or branches depend on values raises `TraceError`, instead of keeping the ones of its first call.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_func import contracts, torch_private, tree, user_warnings
from cl_func.compiler import cuda_graphs, native
from cl_func.compiler.allocator import keep_freed_memory
from cl_func.compiler.collection import collection_deferred
from cl_func.compiler.cuda_graphs import Replayed
from cl_func.compiler.denormals import Flushed
from cl_func.compiler.driven import Driven, index_error
from cl_func.compiler.native import Native
from cl_func.compiler.repairs import repair
from cl_func.compiler.rewrites import rewrite
from cl_func.compiler.threads import OneThread, small
from cl_func.compiler.tracing import explained, interrupts_deferred
from cl_func.compiler.vectors import vector_options
from cl_func.torch_private import storage_id

# Integer hashes overflow by design. Inductor writes them as signed C++ arithmetic, where overflow is undefined, and g++ then drops
# the ends of loops: wrong numbers and a corrupt heap (there is a test for it). -fwrapv defines overflow; the value of this option
# is passed on to the compiler with it.
# The signature fixes the shapes of inputs and results, so the program need not check them at each call.
# A value that takes more than a few operations, such as a random draw, is computed once and stored instead of again in every loop
# that uses it: half the compile time, at the same speed.
OPTIONS: dict[str, Any] = {
    "cpp.enable_floating_point_contract_flag": "off -fwrapv",
    "size_asserts": False,
    "realize_opcount_threshold": 8,
    "cpp.min_chunk_size": 8192,
}

# When it fuses outer loops, inductor may mistake a node that only has to run after another one for a reader of its result, and then
# fails with a KeyError for a buffer (there is a test for it). Without loop fusion the program is slower, but compiles.
UNFUSED: dict[str, Any] = {"max_fusion_size": 1}

# What is said of a library that is not whole.
BROKEN = ("file too short", "invalid ELF header", "cannot read file data", "object file has no loadable segments")
RETRIES = 50  # a killed process may leave one broken file for each kernel of a program


def input_signature(leaves: list[Tensor]) -> tuple[Any, ...]:
    """The properties of its inputs that a program depends on."""
    return tuple((x.shape, x.stride(), x.dtype, x.device) for x in leaves)


def materialize_expanded(leaves: list[Tensor]) -> list[Tensor]:
    """The leaves, copied if several elements share memory (expanded lanes), since such elements cannot be written one by one."""
    return [leaf.contiguous() if 0 in leaf.stride() else leaf for leaf in leaves]


class CompilerError(RuntimeError):
    """Torch's compiler failed on a graph; the function itself can run eagerly."""


class Program:
    """One function for one signature of its inputs: traced on fake tensors and compiled on construction.

    Raises TraceError for a function that cannot be traced, CompilerError where torch's compiler fails.
    """

    @collection_deferred()
    def __init__(
        self,
        inner: Any,
        lanes: list[Tensor],
        shared: list[Tensor],
        structure: Any,
        exp_structure: Any,
        donate: bool,
        rewriting: bool = True,
    ) -> None:
        with interrupts_deferred():  # an interrupted import can be neither used nor repeated
            torch_private.inductor()
        keep_freed_memory()
        n = len(lanes)
        self.structure: Any = None  # of the result, set when it is traced
        self.from_input: dict[int, int] = {}  # output leaf -> the input leaf that it is
        self.copied: set[int] = set()  # output leaves to be copied, since they share memory with other leaves

        def flat(leaves: list[Tensor]) -> list[Tensor]:
            out = inner(tree.unflatten(structure, leaves[:n]), tree.unflatten(exp_structure, leaves[n:]))
            out_leaves, self.structure = tree.flatten(out)
            if not all(isinstance(leaf, Tensor) for leaf in out_leaves):
                contracts.tensors(out, name="update")
            position = {id(leaf): i for i, leaf in enumerate(leaves)}
            self.from_input = {j: position[id(leaf)] for j, leaf in enumerate(out_leaves) if id(leaf) in position}
            if donate and _holds_state(out, self.structure, structure):
                self._write_back(out_leaves, leaves, n)
            return [leaf for j, leaf in enumerate(out_leaves) if j not in self.from_input]

        # Inputs with separate memory: leaves that happen to share memory in this call must not be merged in the program.
        with torch_private.fake_tensors(static=True):
            inputs = [torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device) for x in (*lanes, *shared)]
        with torch.no_grad():
            with explained():
                graph = torch_private.trace(flat, inputs)
            repair(graph.graph)
            if rewriting:
                rewrite(graph.graph)
            graph.recompile()
            self.small = small(graph.graph)
            # Not through dynamo: its guards, for which the signature stands here, cost as much as a small step, and it gives up on
            # code after 8 compilations, while all train steps share theirs.
            self.compiled: Any = _compile(graph, inputs)
        # Whether every leaf of the new state is that leaf of the old one, overwritten.
        same = all(self.from_input.get(j) == j for j in range(n))
        self.in_place = donate and self.structure == structure and same and not self.copied
        self.replayed: Replayed | Native | None = None
        if self.in_place and cuda_graphs.recordable([*lanes, *shared]):
            self.replayed = Replayed(self.compiled, n, cuda_graphs.record)
        elif self.in_place and native.recordable([*lanes, *shared]):
            self.replayed = Native(self.compiled, n, self.small)

    def _write_back(self, out_leaves: list[Tensor], leaves: list[Tensor], n: int) -> None:
        """Copy the new state over the old one; functionalization turns the copies into in-place writes.

        An old leaf whose memory is still used elsewhere in the result (the old parameters become the teacher, `a, b = b, a`) is not
        overwritten, and the leaf that uses it is copied, so that no two leaves of the new state share memory.
        """
        memory = {storage_id(leaf): i for i, leaf in enumerate(leaves) if leaf.numel()}
        shared = {j: memory[storage_id(leaf)] for j, leaf in enumerate(out_leaves) if storage_id(leaf) in memory}
        self.copied = {j for j, i in shared.items() if self.from_input.get(j) != j}
        kept = {shared[j] for j in self.copied}
        for j in range(n):
            if j not in shared and j not in kept:
                leaves[j].copy_(out_leaves[j])
                self.from_input[j] = j
        fresh = [j for j in range(len(out_leaves)) if j not in self.from_input and j not in shared]
        first = {storage_id(out_leaves[j]): j for j in reversed(fresh)}
        self.copied.update(j for j in fresh if first[storage_id(out_leaves[j])] != j)

    @property
    def recorded(self) -> bool:
        """Whether there are records of this program that take steps without Python."""
        return isinstance(self.replayed, Native) and bool(self.replayed.records)

    def native(self, inputs: list[Tensor]) -> Driven | None:
        """The record of this program that takes steps without Python, for the addresses of some inputs; None if there is none."""
        return self.replayed.find(inputs) if isinstance(self.replayed, Native) else None

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        """The leaves of the result."""
        with torch.no_grad(), Flushed(), OneThread(self.small):
            try:
                if self.replayed is not None:
                    self.replayed(inputs)
                    return inputs[: self.structure.num_leaves]
                changed = iter(self.compiled(*inputs))
            except RuntimeError as error:
                outside = index_error(str(error))
                if outside is None:
                    raise
                raise outside from error
        leaves = [inputs[self.from_input[j]] if j in self.from_input else next(changed) for j in range(self.structure.num_leaves)]
        for j in self.copied:
            leaves[j] = leaves[j].clone()
        return leaves


def _compile(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    retries, unfused = RETRIES, False
    while True:
        try:
            options = OPTIONS | vector_options() | (UNFUSED if unfused else {})
            return torch_private.compile_graph(graph, inputs, options)
        except Exception as error:
            if retries > 0 and _discard_broken_file(error):
                retries -= 1
            elif not unfused and _failed_in_fusion(error):
                unfused = True
            else:
                raise CompilerError(f"{type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")[:300]


def _discard_broken_file(error: Exception) -> bool:
    """Whether an error is due to a half-written library in torch's cache, left by a process that was killed; removes the file."""
    found = re.search(rf"(/[^\s'\"]+\.so): (?:{'|'.join(BROKEN)})", str(error))
    if found is None or not Path(found[1]).is_file():
        return False
    user_warnings.warn(f"cl.compile: removed {found[1]}, half written by a process that was killed; compiling again.")
    Path(found[1]).unlink()
    return True


def _failed_in_fusion(error: Exception) -> bool:
    """Whether inductor failed because of loops that it had fused."""
    return re.search(r"KeyError: 'buf\d+'", str(error)) is not None


def address(leaf: Tensor) -> int:
    """The address at which a tensor's storage begins."""
    return leaf.untyped_storage().data_ptr()


def _holds_state(out: Any, out_structure: Any, structure: Any) -> bool:
    """Whether a result is a new state, or a pair of one and something else; no other result can replace the old state."""
    pair = isinstance(out, tuple) and len(out) == 2
    return bool(out_structure == structure or (pair and tree.flatten(out[0])[1] == structure))


def clone_aliased(leaves: list[Tensor], shared: list[Tensor]) -> list[Tensor]:
    """The leaves, copied if they share memory with another leaf or with the experience, as an eager update may have made them."""
    taken = {address(leaf) for leaf in shared}
    out = list(leaves)
    for i, leaf in enumerate(leaves):
        start = address(leaf)
        if start in taken:
            out[i] = leaf.clone()
        elif start:
            taken.add(start)
    return out

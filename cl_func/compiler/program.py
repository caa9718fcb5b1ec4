"""One function of (state, exp) as one compiled program: traced once with `make_fx`, rewritten, and handed to inductor.

A program holds for one structure and for the shapes, strides, dtypes and devices of its inputs; `transforms.Compiled` keeps one for
each. With donation it ends in copies of the new state over the old, which functionalization turns into writes in place.

Tracing runs the function on fake tensors, which have shapes and no values: nothing is copied, however large the data set, and a
function whose shapes or branches depend on values is refused (`TraceError`) instead of keeping those of its first call.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_func import contracts, torch_private, tree
from cl_func.compiler.rewrites import rewrite
from cl_func.compiler.tracing import explained, interrupts_deferred
from cl_func.torch_private import storage_id

# Integer hashes overflow by design. Inductor writes them as signed C++ arithmetic, where overflow is undefined, and g++ then drops
# the ends of loops: wrong numbers and a corrupt heap (a test keeps the case). -fwrapv defines it; this option ends in the flags.
# The shapes of inputs and results are known by the signature, so the program need not check them again at each call.
# What takes more than a few operations to compute, such as a draw, is computed once and kept, not again in every loop that uses it:
# half of the time of compilation, at the same speed.
OPTIONS: dict[str, Any] = {
    "cpp.enable_floating_point_contract_flag": "off -fwrapv",
    "size_asserts": False,
    "realize_opcount_threshold": 8,
}


# Fusing outer loops, inductor takes a node that only has to run after another one for a reader of its result, and fails with the
# KeyError of a buffer (a test keeps the case). Such a program is compiled with its loops apart, which is slower and always works.
UNFUSED: dict[str, Any] = {"max_fusion_size": 1}

RETRIES = 50  # a killed process may leave as many broken files as a program has kernels


@functools.cache
def _vector_options() -> dict[str, Any]:
    """That the widest vector instructions of this processor may be used, where one small file shows that the compiler has them.

    Else inductor finds out by building and loading a library for each kind there is: a third of the time of a cold start.
    """
    config, cpp_builder, cpu_vec_isa = torch_private.vector_tools()
    kinds = {"AVX2": ("__m256", "_mm256_fmadd_ps"), "AVX512": ("__m512", "_mm512_fmadd_ps")}
    kind = kinds.get(torch.backends.cpu.get_cpu_capability())
    if kind is None:
        return {}
    known = {"cpp.vec_isa_ok": True}
    with config.patch(known):
        flags = cpu_vec_isa.pick_vec_isa().build_arch_flags().split()
    text = f"#include <immintrin.h>\n{kind[0]} f({kind[0]} a) {{ return {kind[1]}(a, a, a); }}\n"
    with contextlib.suppress(RuntimeError, OSError):  # no C++ compiler, where only an accelerator's is needed
        command = [cpp_builder.get_cpp_compiler(), *flags, "-x", "c++", "-c", "-", "-o", os.devnull]
        if subprocess.run(command, input=text, text=True, capture_output=True, check=False).returncode == 0:
            return known
    cpu_vec_isa.valid_vec_isa_list.cache_clear()
    return {}


def input_signature(leaves: list[Tensor]) -> tuple[Any, ...]:
    """What a program depends on of its inputs."""
    return tuple((x.shape, x.stride(), x.dtype, x.device) for x in leaves)


def materialize_expanded(leaves: list[Tensor]) -> list[Tensor]:
    """The leaves, copied where elements share one place in memory (expanded lanes): those cannot be written one by one."""
    return [leaf.contiguous() if 0 in leaf.stride() else leaf for leaf in leaves]


class CompilerError(RuntimeError):
    """Torch's compiler failed on a graph; the function itself can run eagerly."""


class Program:
    """The graph of one function at one signature, traced on fake tensors and compiled when it is made.

    Raises TraceError for a function that cannot be traced, CompilerError where torch's compiler fails.
    """

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
        with interrupts_deferred():  # half an import leaves what can be neither used nor repeated
            torch_private.inductor()
        n = len(lanes)
        self.from_input: dict[int, int] = {}  # output leaf -> the input leaf that it is
        self.structure: Any = None  # of the result, set when it is traced
        self.copied: set[int] = set()  # output leaves that must not share memory with what they come from

        def flat(leaves: list[Tensor]) -> list[Tensor]:
            out = inner(tree.unflatten(structure, leaves[:n]), tree.unflatten(exp_structure, leaves[n:]))
            out_leaves, self.structure = tree.flatten(out)
            if not all(isinstance(leaf, Tensor) for leaf in out_leaves):
                contracts.tensors(out, name="update")
            place = {id(leaf): i for i, leaf in enumerate(leaves)}
            self.from_input = {j: place[id(leaf)] for j, leaf in enumerate(out_leaves) if id(leaf) in place}
            if donate and _holds_state(out, self.structure, structure):
                self._write_back(out_leaves, leaves, n)
            return [leaf for j, leaf in enumerate(out_leaves) if j not in self.from_input]

        # Each input has memory of its own: leaves that share memory in this call, and need not in the next, must not become one.
        with torch_private.fake_tensors(static=True):
            inputs = [torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device) for x in (*lanes, *shared)]
        with torch.no_grad():
            with explained():
                graph = torch_private.trace(flat, inputs)
            if rewriting:
                rewrite(graph.graph)
                graph.recompile()
            # Not by dynamo: its guards cost as much as a small step, and are here the signature; and it gives up on code that it
            # compiled 8 times, which all train steps share.
            self.compiled: Any = _compiled(graph, inputs)
        # Whether the new state is the old one written over, leaf by leaf.
        same = all(self.from_input.get(j) == j for j in range(n))
        self.in_place = donate and self.structure == structure and same and not self.copied

    def _write_back(self, out_leaves: list[Tensor], leaves: list[Tensor], n: int) -> None:
        """Copy the new state over the old one; functionalization turns the copies into writes in place.

        An old leaf whose memory lives on elsewhere in the result (a teacher becomes the parameters of before, `a, b = b, a`) is not
        written over, and what lives on is copied, so that in the new state too no two leaves share memory.
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

    def __call__(self, given: list[Tensor]) -> list[Tensor]:
        """The leaves of the result."""
        with torch.no_grad():
            changed = iter(self.compiled(*given))
        leaves = [given[self.from_input[j]] if j in self.from_input else next(changed) for j in range(self.structure.num_leaves)]
        for j in self.copied:
            leaves[j] = leaves[j].clone()
        return leaves


def _compiled(graph: Any, inputs: list[Any]) -> Any:
    left, unfused = RETRIES, False
    while True:
        try:
            options = OPTIONS | _vector_options() | (UNFUSED if unfused else {})
            return torch_private.compile_graph(graph, inputs, options)
        except Exception as error:
            if left > 0 and _discarded(error):
                left -= 1
            elif not unfused and _misfused(error):
                unfused = True
            else:
                raise CompilerError(f"{type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")[:300]


def _discarded(error: Exception) -> bool:
    """Whether the error is of half a library in torch's cache on disk, left there by a process that was killed; removes it."""
    found = re.search(r"(/[^\s'\"]+\.so): (?:file too short|invalid ELF header)", str(error))
    if found is None or not Path(found[1]).is_file():
        return False
    warnings.warn(f"cl.compile: removed {found[1]}, half written by a process that was killed; compiling anew.", stacklevel=5)
    Path(found[1]).unlink()
    return True


def _misfused(error: Exception) -> bool:
    """Whether inductor failed over loops that it fused."""
    return re.search(r"KeyError: 'buf\d+'", str(error)) is not None


def address(leaf: Tensor) -> int:
    """Where a tensor's memory begins."""
    return leaf.untyped_storage().data_ptr()


def _holds_state(out: Any, out_structure: Any, structure: Any) -> bool:
    """Whether a result is a new state, or a pair of one and something more; only that can take the old state's place."""
    pair = isinstance(out, tuple) and len(out) == 2
    return bool(out_structure == structure or (pair and tree.flatten(out[0])[1] == structure))


def clone_aliased(leaves: list[Tensor], shared: list[Tensor]) -> list[Tensor]:
    """The leaves, of which none shares memory with another or with the experience: what an eager update made share it is copied."""
    taken = {address(leaf) for leaf in shared}
    out = list(leaves)
    for i, leaf in enumerate(leaves):
        place = address(leaf)
        if place in taken:
            out[i] = leaf.clone()
        elif place:
            taken.add(place)
    return out

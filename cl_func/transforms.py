"""Transformations of updates: tree maps over their leaves, the pure functions.

    cl.vmap(update)       every leaf maps over a leading lane axis of the state: many runs at once
    cl.compile(update)    every leaf becomes one compiled program per structure and shape of its inputs

The Python loops between the leaves (experiences, epochs, minibatches) stay outside of what is compiled. Compile last:
`cl.compile(cl.vmap(update))`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import shutil
import subprocess
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.core import At, Compose, Minibatches, Repeat, Strategy
from cl_func.experience import lane_axes
from cl_func.rewrites import rewrite


def map_leaves(wrap: Callable[[Any], Any], update: Any) -> Any:
    """Map over the functions of an Update; TypeError for what is none."""
    if not callable(update) and not isinstance(update, Strategy):
        raise TypeError(f"update: expected an Update or a Strategy, got {tree.describe(update)}.")
    return tree.map(wrap, update)


@dataclasses.dataclass(frozen=True)
class Vmapped:
    """A function of (state, exp) mapped over the lanes of the state, and of the exp where its fields carry them."""

    inner: Callable[[Any, Any], Any]

    def __call__(self, state: Any, exp: Any = None) -> Any:
        lanes, structure = tree.flatten(state)
        shared, exp_structure = tree.flatten(exp)
        given = [*lanes, *shared]
        if not lanes or any(leaf.ndim == 0 for leaf in lanes):
            raise ValueError("state: every leaf needs a leading lane axis; stack single states with cl.tree.stack([...]).")
        untouched: dict[int, int] = {}
        out_structure: Any = None

        def flat(*leaves: Tensor) -> tuple[Tensor, ...]:
            nonlocal out_structure
            out = self.inner(tree.unflatten(structure, leaves[: len(lanes)]), tree.unflatten(exp_structure, leaves[len(lanes) :]))
            out_leaves, out_structure = tree.flatten(out)
            # Lanes of leaves that pass through need no stacking again: hand the very same tensor on.
            place = {id(leaf): i for i, leaf in enumerate(leaves[: len(lanes)])}
            untouched.update({j: place[id(leaf)] for j, leaf in enumerate(out_leaves) if id(leaf) in place})
            return tuple(leaf for j, leaf in enumerate(out_leaves) if j not in untouched)

        axes = (*[0] * len(lanes), *lane_axes(exp))
        changed = iter(torch.func.vmap(flat, in_dims=axes)(*given))
        return tree.unflatten(
            out_structure,
            [given[untouched[j]] if j in untouched else next(changed) for j in range(out_structure.num_leaves)],
        )


def vmap(update: Any) -> Any:
    """Map an Update (or Probe) over lanes: `cl.vmap(update)(cl.tree.stack(states), exp)`; lane i equals the single run i.

    Given a Strategy, its `init` takes keys [S] and stacks the S states. Fields of the experience may carry lanes too (own row
    order, own class mask); its source is always shared.
    """
    if isinstance(update, Strategy):
        init = update.init
        return Strategy(lambda keys: tree.stack([init(key) for key in keys]), vmap(update.update), update.model)

    def wrap(leaf: Any) -> Any:
        return Compiled(Vmapped(leaf.inner), leaf.donate) if isinstance(leaf, Compiled) else Vmapped(leaf)

    return map_leaves(wrap, update)


_COMPILING = threading.RLock()

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


RETRIES = 50  # a killed process may leave as many broken files as a program has kernels


@functools.cache
def compiler_available() -> bool:
    """Whether a C++ compiler is there; warns once if not."""
    if torch.cuda.is_available() or any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")):
        return True
    warnings.warn(
        "cl.compile: no C++ compiler found (g++ or clang++); running without compilation, results are the same.", stacklevel=3
    )
    return False


@functools.cache
def _vector_options() -> dict[str, Any]:
    """That the widest vector instructions of this processor may be used, where one small file shows that the compiler has them.

    Else inductor finds out by building and loading a library for each kind there is: a third of the time of a cold start.
    """
    # Slow to import, and needed only here.
    from torch._inductor import config, cpp_builder, cpu_vec_isa

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


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A function of (state, exp) as one compiled program per structure, shapes, dtypes and devices of its inputs."""

    inner: Callable[[Any, Any], Any]
    donate: bool = False
    programs: dict[Any, dict[Any, _Program]] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    # States that were written in place: the leaves of the next call, which then need not be taken apart and looked at again.
    owned: weakref.WeakKeyDictionary[Any, tuple[list[Tensor], dict[Any, _Program]]] = dataclasses.field(
        default_factory=weakref.WeakKeyDictionary, compare=False, repr=False
    )

    def donating(self) -> Compiled:
        """The same function, allowed to overwrite the state it is given."""
        return dataclasses.replace(self, donate=True)  # with the same programs

    def __reduce__(self) -> Any:
        return Compiled, (self.inner, self.donate)  # programs belong to the process

    def __call__(self, state: Any, exp: Any = None) -> Any:
        if not compiler_available():
            return self.inner(state, exp)
        shared, exp_structure = tree.flatten(exp)
        shared = _whole(shared)
        known = self.owned.get(state) if self.donate and _by_identity(state) else None
        if known is not None:
            lanes, programs = known
            own = {_address(leaf) for leaf in lanes}
            shared = [leaf.clone() if _address(leaf) in own else leaf for leaf in shared]
        else:
            lanes, structure = tree.flatten(state)
            lanes = _apart(_whole(lanes), shared) if self.donate else _whole(lanes)
            programs = self.programs.setdefault((self.donate, structure, _described(lanes)), {})
        signature = (exp_structure, _described(shared))
        program = programs.get(signature)
        if program is None:
            with _COMPILING:  # torch traces and compiles in one thread at a time; the others wait for the program
                structure = tree.flatten(state)[1]
                program = programs.get(signature) or _Program(self.inner, lanes, shared, structure, exp_structure, self.donate)
                programs[signature] = program
        leaves = program([*lanes, *shared])
        if known is not None and program.in_place:
            return state
        out = tree.unflatten(program.structure, leaves)
        if program.in_place and _by_identity(out):
            self.owned[out] = (leaves, programs)
        return out


def _by_identity(state: Any) -> bool:
    """Whether a value can be a weak key that is equal to itself only, as states are; tensors and dicts are not."""
    return dataclasses.is_dataclass(state) and type(state).__hash__ is object.__hash__ and hasattr(state, "__weakref__")


def _described(leaves: list[Tensor]) -> tuple[Any, ...]:
    return tuple((x.shape, x.stride(), x.dtype, x.device) for x in leaves)


def _whole(leaves: list[Tensor]) -> list[Tensor]:
    """The leaves, copied where elements share one place in memory (expanded lanes): those cannot be written one by one."""
    return [leaf.contiguous() if 0 in leaf.stride() else leaf for leaf in leaves]


class _Program:
    """The graph of one function at one signature, traced by running it once and compiled at the first call."""

    def __init__(
        self, inner: Any, lanes: list[Tensor], shared: list[Tensor], structure: Any, exp_structure: Any, donate: bool
    ) -> None:
        # Slow to import, and needed only here.
        from torch._subclasses import FakeTensorMode
        from torch.fx.experimental.proxy_tensor import make_fx
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        n = len(lanes)
        self.from_input: dict[int, int] = {}  # output leaf -> the input leaf that it is
        self.copied: set[int] = set()  # output leaves that must not share memory with what they come from

        def flat(leaves: list[Tensor]) -> list[Tensor]:
            out = inner(tree.unflatten(structure, leaves[:n]), tree.unflatten(exp_structure, leaves[n:]))
            out_leaves, self.structure = tree.flatten(out)
            place = {id(leaf): i for i, leaf in enumerate(leaves)}
            self.from_input = {j: place[id(leaf)] for j, leaf in enumerate(out_leaves) if id(leaf) in place}
            if donate and _holds_state(out, self.structure, structure):
                self._write_back(out_leaves, leaves, n)
            return [leaf for j, leaf in enumerate(out_leaves) if j not in self.from_input]

        # Traced on copies: leaves that share memory in this call, and need not in the next, must not become one input.
        given = [torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device).copy_(x) for x in (*lanes, *shared)]
        with torch.no_grad():
            for left in range(RETRIES, -1, -1):
                graph = make_fx(lambda *leaves: flat(list(leaves)))(*given)
                rewrite(graph.graph)
                graph.recompile()
                # Straight to inductor: what dynamo adds, capture and guards, is here make_fx and the signature. Dynamo's guards
                # cost as much as a small step, and it gives up on code that it compiled 8 times, which all train steps share.
                # Inputs with a ShapeEnv, though no shape is dynamic: without one inductor does not use its cache on disk.
                fake = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
                inputs: list[Any] = [fake.from_tensor(leaf, static_shapes=True) for leaf in given]
                try:
                    self.compiled: Any = torch._inductor.compile(graph, inputs, options=OPTIONS | _vector_options())
                    break
                except Exception as error:
                    if left == 0 or not _discarded(error):
                        raise
        # Whether the new state is the old one written over, leaf by leaf.
        same = all(self.from_input.get(j) == j for j in range(n))
        self.in_place = donate and self.structure == structure and same and not self.copied

    def _write_back(self, out_leaves: list[Tensor], leaves: list[Tensor], n: int) -> None:
        """Copy the new state over the old one; functionalization turns the copies into writes in place.

        An old leaf whose memory lives on elsewhere in the result (a teacher becomes the parameters of before, `a, b = b, a`) is not
        written over, and what lives on is copied, so that in the new state too no two leaves share memory.
        """
        memory = {_address(leaf): i for i, leaf in enumerate(leaves) if leaf.numel()}
        shared = {j: memory[_address(leaf)] for j, leaf in enumerate(out_leaves) if _address(leaf) in memory}
        self.copied = {j for j, i in shared.items() if self.from_input.get(j) != j}
        kept = {shared[j] for j in self.copied}
        for j in range(n):
            if j not in shared and j not in kept:
                leaves[j].copy_(out_leaves[j])
                self.from_input[j] = j
        fresh = [j for j in range(len(out_leaves)) if j not in self.from_input and j not in shared]
        first = {_address(out_leaves[j]): j for j in reversed(fresh)}
        self.copied.update(j for j in fresh if first[_address(out_leaves[j])] != j)

    def __call__(self, given: list[Tensor]) -> list[Tensor]:
        """The leaves of the result."""
        with torch.no_grad():
            changed = iter(self.compiled(*given))
        leaves = [given[self.from_input[j]] if j in self.from_input else next(changed) for j in range(self.structure.num_leaves)]
        for j in self.copied:
            leaves[j] = leaves[j].clone()
        return leaves


def _discarded(error: Exception) -> bool:
    """Whether the error is of half a library in torch's cache on disk, left there by a process that was killed; removes it."""
    found = re.search(r"(/[^\s'\"]+\.so): (?:file too short|invalid ELF header)", str(error))
    if found is None or not Path(found[1]).is_file():
        return False
    warnings.warn(f"cl.compile: removed {found[1]}, half written by a process that was killed; compiling anew.", stacklevel=5)
    Path(found[1]).unlink()
    return True


def _address(leaf: Tensor) -> int:
    return leaf.untyped_storage().data_ptr()


def _holds_state(out: Any, out_structure: Any, structure: Any) -> bool:
    """Whether a result is a new state, or a pair of one and something more; only that can take the old state's place."""
    pair = isinstance(out, tuple) and len(out) == 2
    return bool(out_structure == structure or (pair and tree.flatten(out[0])[1] == structure))


def _apart(leaves: list[Tensor], shared: list[Tensor]) -> list[Tensor]:
    """The leaves, of which none shares memory with another or with the experience: what an eager update made share it is copied."""
    taken = {_address(leaf) for leaf in shared}
    out = list(leaves)
    for i, leaf in enumerate(leaves):
        place = _address(leaf)
        if place in taken:
            out[i] = leaf.clone()
        elif place:
            taken.add(place)
    return out


@dataclasses.dataclass(frozen=True)
class Fused:
    """Neighbouring leaves as one: a single program instead of several calls."""

    parts: tuple[Callable[[Any, Any], Any], ...]

    def __call__(self, state: Any, exp: Any) -> Any:
        for part in self.parts:
            state = part(state, exp)
        return state


def fuse(update: Any) -> Any:
    """The same Update with neighbouring leaves merged and loops of one round taken away; loops of several rounds stay loops."""
    if isinstance(update, Minibatches):
        step = fuse(update.step)
        once = update.order is None and update.view is None and (update.iterations or update.epochs) == 1
        return step if once else tree.replace(update, step=step)
    if isinstance(update, Repeat):
        return tree.replace(update, update=fuse(update.update))
    if isinstance(update, At):
        inner = fuse(update.update)
        return Fused((tree.replace(update, update=inner),)) if _is_leaf(inner) else tree.replace(update, update=inner)
    if not isinstance(update, Compose):
        return update
    merged: list[Any] = []
    fused = [fuse(part) for part in update.updates]
    for part in [p for f in fused for p in (f.updates if isinstance(f, Compose) else (f,))]:
        if merged and _is_leaf(part) and _is_leaf(merged[-1]):
            before = merged.pop()
            merged.append(Fused((*(before.parts if isinstance(before, Fused) else (before,)), part)))
        else:
            merged.append(part)
    return merged[0] if len(merged) == 1 else Compose(updates=tuple(merged))


def _is_leaf(update: Any) -> bool:
    return not isinstance(update, (Compose, Repeat, At, Minibatches, Compiled))


def compile(update: Any, donate: bool = False) -> Any:
    """Compile every leaf of an Update, Probe or Strategy; the results equal the eager ones (a law of the test-suite).

    Neighbouring leaves become one program. A leaf is compiled once per structure and shapes of its inputs. With `donate` the
    state passed in is overwritten and must not be used again; `cl.fold(..., donate=True)` does this safely on a copy of its own.
    An eager update among donated ones must not put a tensor in the state that it still needs: the next one may write over it. What
    is the state's own or the experience's is safe.
    Without a C++ compiler everything runs eagerly, after one warning.
    """
    checks.flag("donate", donate)
    if isinstance(update, Strategy):
        return tree.replace(update, update=compile(update.update, donate))
    return map_leaves(lambda leaf: leaf if isinstance(leaf, Compiled) else Compiled(leaf, donate), fuse(update))

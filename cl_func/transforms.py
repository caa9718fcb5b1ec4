"""Transformations of updates: tree maps over their leaves, which are pure functions.

    cl.vmap(update)       every leaf maps over a leading lane axis of the state: many runs at once
    cl.compile(update)    every leaf becomes one compiled program per structure and shape of its inputs

The Python loops between the leaves (experiences, epochs, minibatches) stay outside of what is compiled. Compile last:
`cl.compile(cl.vmap(update))`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from cl_func import checks, contracts, signatures, tree, user_warnings
from cl_func.compiler.program import CompilerError, Program, address, clone_aliased, input_signature, materialize_expanded
from cl_func.compiler.tracing import TraceError
from cl_func.core import Strategy
from cl_func.core.looping import Batches
from cl_func.core.nodes import Wrapper, fuse
from cl_func.experiences import lane_axes
from cl_func.torch_private import in_transform

__all__ = ["Compiled", "Vmapped", "compile", "vmap"]

F = TypeVar("F")  # an Update, a Probe or a Strategy


def _map_leaves(wrap: Callable[[Any], Any], update: F) -> F:
    """Map over the leaf functions of an Update; TypeError for any other value."""
    if not isinstance(update, Strategy):
        signatures.function("update", update, 2, "an Update or a Strategy, or another function of (state, exp)")
    return tree.map(wrap, update)


@dataclasses.dataclass(frozen=True)
class Vmapped(Wrapper):
    """A function of (state, exp) mapped over the lanes of the state, and of those fields of the experience that have lanes."""

    name: str = "update"  # what error messages call it: "update" or "probe"

    same = True

    def lifted(self, function: Callable[[Any, Any], Any]) -> Vmapped:
        return Vmapped(function, "loss")

    def __call__(self, state: Any, exp: Any = None) -> Any:
        lanes, structure = tree.flatten(state)
        shared, exp_structure = tree.flatten(exp)
        inputs = [*lanes, *shared]
        if not lanes or any(leaf.ndim == 0 for leaf in lanes):
            raise ValueError("state: every leaf needs a leading lane axis; stack single states with cl.tree.stack([...]).")
        passed_through: dict[int, int] = {}  # output leaf -> the input leaf that it is
        out_structure: Any = None

        def flat(*leaves: Tensor) -> tuple[Tensor, ...]:
            nonlocal out_structure
            out = self.inner(tree.unflatten(structure, leaves[: len(lanes)]), tree.unflatten(exp_structure, leaves[len(lanes) :]))
            out_leaves, out_structure = tree.flatten(contracts.tensors(out, name=self.name))
            # vmap would copy the lanes of a leaf that is returned unchanged: return the input tensor itself instead.
            position = {id(leaf): i for i, leaf in enumerate(leaves[: len(lanes)])}
            passed_through.update({j: position[id(leaf)] for j, leaf in enumerate(out_leaves) if id(leaf) in position})
            return tuple(leaf for j, leaf in enumerate(out_leaves) if j not in passed_through)

        axes = (*[0] * len(lanes), *lane_axes(exp))
        changed = iter(torch.func.vmap(flat, in_dims=axes)(*inputs))
        return tree.unflatten(
            out_structure,
            [inputs[passed_through[j]] if j in passed_through else next(changed) for j in range(out_structure.num_leaves)],
        )


def vmap(update: F) -> F:
    """Map an Update (or Probe) over lanes: `cl.vmap(update)(cl.tree.stack(states), exp)`; lane i equals the single run i.

    The `init` of a vmapped Strategy takes keys [S] and stacks the S states. Fields of the experience may have lanes too (a row
    order or a class mask for each); its source is always shared.
    """
    if isinstance(update, Strategy):
        return tree.replace(update, init=functools.partial(_init_lanes, init=update.init), update=vmap(update.update))
    return _vmap(update, "update")


def _init_lanes(keys: Tensor, *, init: Callable[[Tensor], Any]) -> Any:
    return tree.stack([init(key) for key in keys])


def _vmap(update: F, name: str) -> F:
    """`vmap` of an Update or a Probe; `name` is what error messages call it."""

    def wrap(leaf: Any) -> Any:
        if isinstance(leaf, Compiled):
            return leaf.around(Vmapped(leaf.inner, name))
        return Vmapped(leaf, name)

    return _map_leaves(wrap, update)


_COMPILING = threading.RLock()


@functools.cache
def _compiler_available() -> bool:
    """Whether there is a C++ compiler, or a GPU; warns once if not."""
    if torch.cuda.is_available() or any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")):
        return True
    user_warnings.warn("cl.compile: no C++ compiler found (g++ or clang++); running without compilation, results are the same.")
    return False


def _is_transformed(leaves: list[Tensor]) -> bool:
    """Whether a gradient, a tangent or lanes of the outside pass through, which a compiled program does not know; warns once."""
    outside = in_transform() or (any(leaf.requires_grad for leaf in leaves) and torch.is_grad_enabled())
    if outside:
        _warn_once(
            "cl.compile: a compiled program has no derivatives, and lanes only by cl.compile(cl.vmap(update)); inside "
            "torch.func.grad, jvp or vmap, and for tensors that require a gradient, a function runs eagerly, with the same results."
        )
    return outside


@dataclasses.dataclass(frozen=True)
class Compiled(Wrapper):
    """A function of (state, exp) as one compiled program per structure, shapes, dtypes and devices of its inputs."""

    donate: bool = False
    rewrite: bool = True
    lenient: bool = False  # a function that cannot be traced runs eagerly, after a warning, instead of raising
    programs: dict[Any, dict[Any, Program | _Eager]] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    # State written in place -> its leaves and their programs, so that the next call need not flatten and inspect it again.
    owned: weakref.WeakKeyDictionary[Any, tuple[list[Tensor], dict[Any, Program | _Eager]]] = dataclasses.field(
        default_factory=weakref.WeakKeyDictionary, compare=False, repr=False
    )

    same = closed = True

    def around(self, inner: Callable[..., Any]) -> Compiled:
        # With programs and states of its own: those recorded here belong to the other function.
        return dataclasses.replace(self, inner=inner, programs={}, owned=weakref.WeakKeyDictionary())

    def donating(self) -> Compiled:
        """The same function, which may overwrite the state that it is given; it shares the programs."""
        return dataclasses.replace(self, donate=True)

    def __reduce__(self) -> Any:
        return Compiled, (self.inner, self.donate, self.rewrite, self.lenient)  # programs cannot leave the process

    def __call__(self, state: Any, exp: Any = None) -> Any:
        if not _compiler_available():
            return self.inner(state, exp)
        shared, exp_structure = tree.flatten(exp)
        shared = materialize_expanded(shared)
        known = self.owned.get(state) if self.donate and _by_identity(state) else None
        if known is not None:
            lanes, programs = known
            own = {address(leaf) for leaf in lanes}
            shared = [leaf.clone() if address(leaf) in own else leaf for leaf in shared]
        else:
            lanes, structure = tree.flatten(state)
            lanes = clone_aliased(materialize_expanded(lanes), shared) if self.donate else materialize_expanded(lanes)
            programs = self.programs.setdefault((self.donate, structure, input_signature(lanes)), {})
        if _is_transformed(shared if known is not None else [*lanes, *shared]):
            return self.inner(state, exp)
        signature = (exp_structure, input_signature(shared))
        program = programs.get(signature)
        if program is None:
            with _COMPILING:  # torch can trace and compile in one thread at a time only; the others wait for the program
                program = programs.get(signature) or self._program(lanes, shared, tree.flatten(state)[1], exp_structure)
                programs[signature] = program
        if isinstance(program, _Eager):
            return self.inner(state, exp)
        leaves = program([*lanes, *shared])
        if known is not None and program.in_place:
            return state
        out = tree.unflatten(program.structure, leaves)
        if program.in_place and _by_identity(out):
            self.owned[out] = (leaves, programs)
        return out

    def advance(self, state: Any, batches: Batches, seconds: float) -> int:
        """Take steps on a state that is overwritten, without Python in between, for about some seconds; how many (`looping.py`).

        0 where that cannot be: before the program has been recorded for this state, or for a program that cannot be.
        """
        known = self.owned.get(state) if self.donate and _by_identity(state) else None
        if known is None or not any(isinstance(program, Program) and program.recorded for program in known[1].values()):
            return 0
        (lanes, programs), (shared, exp_structure) = known, tree.flatten(batches.first)
        program = programs.get((exp_structure, input_signature(shared)))
        record = program.native([*lanes, *shared]) if isinstance(program, Program) else None
        own = {address(leaf) for leaf in lanes}
        if record is None or any(0 in leaf.stride() or address(leaf) in own for leaf in shared):
            return 0
        table = batches.addresses(shared, [i - len(lanes) for i in record.copied])
        return record.run(table.data_ptr(), len(table), seconds)

    def _program(self, lanes: list[Tensor], shared: list[Tensor], structure: Any, exp_structure: Any) -> Program | _Eager:
        try:
            return Program(self.inner, lanes, shared, structure, exp_structure, self.donate, self.rewrite)
        except TraceError as error:
            if not self.lenient:
                raise
            _warn_once(f"{error} It runs eagerly now.")
        except CompilerError as error:
            if os.environ.get("CL_FUNC_STRICT", "0") not in ("", "0"):
                raise
            _warn_once(
                f"cl.compile: torch's compiler failed ({error}); this part runs eagerly, with the same results. "
                "Set CL_FUNC_STRICT=1 to have this raised as an error."
            )
        return _Eager()


class _Eager:
    """Stands for a program that could not be made: the function runs eagerly."""


_WARNED: set[str] = set()


def _warn_once(message: str) -> None:
    if message not in _WARNED:
        _WARNED.add(message)
        user_warnings.warn(message)


def _by_identity(state: Any) -> bool:
    """Whether a value can be a weak key that equals only itself, as a state can; tensors and dicts cannot."""
    return dataclasses.is_dataclass(state) and type(state).__hash__ is object.__hash__ and hasattr(state, "__weakref__")


def compile(update: F, donate: bool = False, *, rewrite: bool = True) -> F:
    """Compile every leaf of an Update, Probe or Strategy; the results equal the eager ones (a law of the test-suite).

    Equal up to rounding, and on the CPU numbers below 1.2e-38 in float32, too small for full precision, count as 0, on which some
    processors are slow (`cl_func/compiler/denormals.py`).

    Neighbouring leaves become one program. A leaf is compiled once for each structure and shapes of its inputs. With `donate` the
    state passed in is overwritten and must not be used again; `cl.fold(..., donate=True)` does this safely, on its own copy.
    An eager update among donated ones must not put a tensor into the state that it needs later, since the next update may
    overwrite it; tensors that were in the state or the experience before are safe.

    rewrite: rewrite plain gradient steps and a few gathers into a form that takes fewer passes over memory (`rewrites.py`);
        False passes the graph to torch's compiler as it was traced.

    The first call raises ValueError, naming the line, for a function whose shapes or branches depend on the values of tensors.
    Without a C++ compiler, or if torch's compiler fails, the function runs eagerly after one warning that gives the reason; with
    the environment variable CL_FUNC_STRICT=1 a failure of the compiler is raised. So it does, after a warning, where it is
    differentiated or vmapped from outside.
    """
    checks.flag("donate", donate)
    checks.flag("rewrite", rewrite)
    if isinstance(update, Strategy):
        return tree.replace(update, update=compile(update.update, donate, rewrite=rewrite))
    return _map_leaves(lambda leaf: leaf if isinstance(leaf, Compiled) else Compiled(leaf, donate, rewrite), fuse(update))


def _lenient(update: F) -> F:
    """The same compiled Update, but leaves that cannot be traced run eagerly after a warning."""

    def wrap(leaf: Any) -> Any:
        return dataclasses.replace(leaf, lenient=True, programs={}) if isinstance(leaf, Compiled) else leaf

    return tree.map(wrap, update)

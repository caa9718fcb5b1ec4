"""Transformations of updates: tree maps over their leaves, the pure functions.

    cl.vmap(update)       every leaf maps over a leading lane axis of the state: many runs at once
    cl.compile(update)    every leaf becomes one compiled program per structure and shape of its inputs
    cl.check_finite(update)   every leaf is watched: stops at the first NaN or infinity, naming experience and step

The Python loops between the leaves (experiences, epochs, minibatches) stay outside of what is compiled. Compile last:
`cl.compile(cl.vmap(update))`.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from cl_func import tree
from cl_func.core import Gated, Strategy, TrainStep
from cl_func.experience import lane_axes


def _map_leaves(wrap: Callable[[Any], Any], update: Any) -> Any:
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
        return Strategy(init=lambda keys: tree.stack([init(key) for key in keys]), update=vmap(update.update))

    def wrap(leaf: Any) -> Any:
        return dataclasses.replace(leaf, inner=Vmapped(leaf.inner), programs={}) if isinstance(leaf, Compiled) else Vmapped(leaf)

    return _map_leaves(wrap, update)


@functools.cache
def compiler_available() -> bool:
    """Whether a C++ compiler is there; warns once if not."""
    if torch.cuda.is_available() or any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")):
        return True
    warnings.warn("cl.compile: no C++ compiler found (g++ or clang++); running without compilation, results are the same.", stacklevel=3)
    return False


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A function of (state, exp) as one compiled program per structure, shapes, dtypes and devices of its inputs."""

    inner: Callable[[Any, Any], Any]
    donate: bool = False
    programs: dict[Any, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def donating(self) -> Compiled:
        """The same function, allowed to overwrite the state it is given."""
        return dataclasses.replace(self, donate=True)

    def __getstate__(self) -> dict[str, Any]:
        return {"inner": self.inner, "donate": self.donate, "programs": {}}

    def __call__(self, state: Any, exp: Any = None) -> Any:
        if not compiler_available():
            return self.inner(state, exp)
        lanes, structure = tree.flatten(state)
        shared, exp_structure = tree.flatten(exp)
        given = [*lanes, *shared]
        signature = (self.donate, structure, exp_structure, *[(x.shape, x.dtype, x.device) for x in given])
        program = self.programs.get(signature)
        if program is None:
            program = self.programs[signature] = _Program(self.inner, given, structure, exp_structure, self.donate)
        return program(given)


class _Program:
    """The graph of one function at one signature, traced by running it once and compiled at the first call."""

    def __init__(self, inner: Any, given: list[Tensor], structure: Any, exp_structure: Any, donate: bool) -> None:
        n = structure.num_leaves
        self.from_input: dict[int, int] = {}

        def flat(leaves: list[Tensor]) -> list[Tensor]:
            out = inner(tree.unflatten(structure, leaves[:n]), tree.unflatten(exp_structure, leaves[n:]))
            out_leaves, self.structure = tree.flatten(out)
            place = {id(leaf): i for i, leaf in enumerate(leaves)}
            self.from_input = {j: place[id(leaf)] for j, leaf in enumerate(out_leaves) if id(leaf) in place}
            if donate:
                self._write_back(out, out_leaves, leaves, structure)
            return [leaf for j, leaf in enumerate(out_leaves) if j not in self.from_input]

        graph = make_fx(flat)([leaf.clone() for leaf in given] if donate else given)
        self.compiled = torch.compile(graph, fullgraph=True, dynamic=False)

    def _write_back(self, out: Any, out_leaves: list[Tensor], leaves: list[Tensor], structure: Any) -> None:
        """Copy the new state over the old one; functionalization turns the copies into writes in place."""
        is_state = self.structure == structure
        with_more = isinstance(out, tuple) and len(out) == 2 and tree.flatten(out[0])[1] == structure
        if not (is_state or with_more):
            return
        n = structure.num_leaves
        moved = [j for j in range(n) if self.from_input.get(j) != j]
        # A leaf that becomes another leaf's old value must be read before any is overwritten.
        memory = {leaf.untyped_storage().data_ptr() for leaf in leaves}
        new = {j: out_leaves[j].clone() if out_leaves[j].untyped_storage().data_ptr() in memory else out_leaves[j] for j in moved}
        for j in moved:
            leaves[j].copy_(new[j])
            self.from_input[j] = j

    def __call__(self, given: list[Tensor]) -> Any:
        with torch.no_grad():
            changed = iter(self.compiled(given))
        leaves = [given[self.from_input[j]] if j in self.from_input else next(changed) for j in range(self.structure.num_leaves)]
        return tree.unflatten(self.structure, leaves)


def compile(update: Any, donate: bool = False) -> Any:  # noqa: A001 - reads as cl.compile
    """Compile every leaf of an Update, Probe or Strategy; the results equal the eager ones (a law of the test-suite).

    A leaf is compiled once per structure and shapes of its inputs. With `donate` the state passed in is overwritten and must not be
    used again; `cl.fold(..., donate=True)` does this safely on a copy of its own. Without a C++ compiler everything runs eagerly,
    after one warning.
    """
    if isinstance(update, Strategy):
        return Strategy(init=update.init, update=compile(update.update, donate))
    return _map_leaves(lambda leaf: leaf if isinstance(leaf, Compiled) else Compiled(leaf, donate), update)

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
        return Strategy(lambda keys: tree.stack([init(key) for key in keys]), vmap(update.update), update.model)

    def wrap(leaf: Any) -> Any:
        return dataclasses.replace(leaf, inner=Vmapped(leaf.inner), programs={}) if isinstance(leaf, Compiled) else Vmapped(leaf)

    return _map_leaves(wrap, update)


# Integer hashes overflow by design. Inductor writes them as signed C++ arithmetic, where overflow is undefined, and g++ then drops
# the ends of loops: wrong numbers and a corrupt heap (a test keeps the case). -fwrapv defines it; this option ends in the flags.
OPTIONS: dict[str, Any] = {"cpp.enable_floating_point_contract_flag": "off -fwrapv"}


@functools.cache
def compiler_available() -> bool:
    """Whether a C++ compiler is there; warns once if not."""
    if torch.cuda.is_available() or any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")):
        return True
    warnings.warn(
        "cl.compile: no C++ compiler found (g++ or clang++); running without compilation, results are the same.", stacklevel=3
    )
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
        from torch.fx.experimental.proxy_tensor import make_fx  # slow to import, needed only here

        n = structure.num_leaves
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

        if donate:
            _check_apart(given[:n])
            given = [leaf.clone() for leaf in given]
        self.compiled = torch.compile(make_fx(flat)(given), fullgraph=True, dynamic=False, options=OPTIONS)

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

    def __call__(self, given: list[Tensor]) -> Any:
        with torch.no_grad():
            changed = iter(self.compiled(given))
        leaves = [given[self.from_input[j]] if j in self.from_input else next(changed) for j in range(self.structure.num_leaves)]
        for j in self.copied:
            leaves[j] = leaves[j].clone()
        return tree.unflatten(self.structure, leaves)


def _address(leaf: Tensor) -> int:
    return leaf.untyped_storage().data_ptr()


def _holds_state(out: Any, out_structure: Any, structure: Any) -> bool:
    """Whether a result is a new state, or a pair of one and something more; only that can take the old state's place."""
    pair = isinstance(out, tuple) and len(out) == 2
    return bool(out_structure == structure or (pair and tree.flatten(out[0])[1] == structure))


def _check_apart(leaves: list[Tensor]) -> None:
    places = [_address(leaf) for leaf in leaves if leaf.numel()]
    if len(set(places)) != len(places):
        raise ValueError(
            "state: two leaves share memory, and with donate=True one would overwrite the other. Clone the state first, "
            "cl.tree.map(torch.clone, state), or let cl.fold(..., donate=True) do it."
        )


def compile(update: Any, donate: bool = False) -> Any:
    """Compile every leaf of an Update, Probe or Strategy; the results equal the eager ones (a law of the test-suite).

    A leaf is compiled once per structure and shapes of its inputs. With `donate` the state passed in is overwritten and must not be
    used again; `cl.fold(..., donate=True)` does this safely on a copy of its own. Without a C++ compiler everything runs eagerly,
    after one warning.
    """
    if isinstance(update, Strategy):
        return tree.replace(update, update=compile(update.update, donate))
    return _map_leaves(lambda leaf: leaf if isinstance(leaf, Compiled) else Compiled(leaf, donate), update)


@dataclasses.dataclass(frozen=True)
class Watched:
    """A function of (state, exp) that raises FloatingPointError when its loss or its result is not finite."""

    inner: Callable[[Any, Any], Any]

    def __call__(self, state: Any, exp: Any = None) -> Any:
        # Losses are pure: asked again with the same state, one gives the very value that the step is about to follow.
        loss = _loss_of(self.inner)
        if loss is not None:
            self._check({"loss": loss(state, exp)}, state, exp)
        out = self.inner(state, exp)
        self._check(out, state, exp)
        return out

    def _check(self, values: Any, state: Any, exp: Any) -> None:
        for path, leaf in tree.items(values):
            if leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
                worst = leaf[~torch.isfinite(leaf)].flatten()[0].item()
                raise FloatingPointError(
                    f"{path} is {worst} at {_where(state, exp)}{_lanes(leaf, state)}; lower the learning rate, clip the gradients "
                    "(cl.optim.clip_by_global_norm) or look at the experience's inputs."
                )


def _loss_of(leaf: Any) -> Callable[[Any, Any], Tensor] | None:
    """The value of the loss that a leaf is about to follow, as a function of (state, exp), if it is a train step."""
    if isinstance(leaf, Gated):
        return _loss_of(leaf.inner)
    if isinstance(leaf, Vmapped):
        inner = _loss_of(leaf.inner)
        return None if inner is None else Vmapped(inner)
    if isinstance(leaf, TrainStep):
        return lambda state, exp: leaf.loss(state.model.params, state, exp)[0]
    return None


def _where(state: Any, exp: Any) -> str:
    index = getattr(exp, "index", None)
    count = getattr(getattr(state, "opt", None), "count", None)
    place = "an unknown experience" if index is None else f"experience {index.flatten()[0].item()}"
    return place if count is None else f"{place}, optimiser step {count.flatten()[0].item()}"


def _lanes(leaf: Tensor, state: Any) -> str:
    key = getattr(state, "key", None)
    if key is None or key.ndim == 0:
        return ""
    bad = (~torch.isfinite(leaf)).flatten(1).any(1) if leaf.ndim > 1 else ~torch.isfinite(leaf)
    return f", lanes {bad.nonzero().flatten().tolist()}"


def check_finite(update: Any) -> Any:
    """Watch every leaf of an Update: FloatingPointError at the first loss or floating leaf of the state that is NaN or infinite.

    The message names the value, its path, the experience, the optimiser's step and the lanes. For debugging: it evaluates the loss
    twice and waits for the device at every step. Apply it after `cl.vmap`; what is compiled runs eagerly under it.
    """
    if isinstance(update, Strategy):
        return tree.replace(update, update=check_finite(update.update))
    return _map_leaves(lambda leaf: Watched(leaf.inner if isinstance(leaf, Compiled) else leaf), update)

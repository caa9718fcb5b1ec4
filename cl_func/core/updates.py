"""Combinators: apply Updates one after the other, repeatedly, to a slot, or under a condition.

`compose`, `minibatches`, `repeat` and `at` return small pytree nodes whose leaves are functions, so a transformation such as
`cl.vmap` or `cl.compile` maps over the leaves and leaves the Python loops between them alone. Code outside the leaves therefore
sees states with or without a lane axis, and indexes from the right only (`rows[..., i:j]`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, contracts, signatures, tree
from cl_func.checks import positive_int
from cl_func.core.kinds import E, S, Update
from cl_func.core.nodes import Combinator, calls
from cl_func.torch_private import is_eager_cpu
from cl_func.tree import state, static


@state
class Compose(Combinator):
    """Several Updates from left to right; made by `compose`."""

    updates: tuple[Update, ...]

    sequential = True

    @property
    def children(self) -> tuple[Update, ...]:
        return self.updates

    def rebuild(self, children: tuple[Update, ...]) -> Compose:
        return Compose(updates=children)

    def calls(self, n: int) -> int:
        return sum(calls(update, n) for update in self.updates)

    def __call__(self, state: Any, exp: Any) -> Any:
        for update in self.updates:
            state = contracts.update_output(update(state, exp), state)
        return state


def compose(*updates: Callable[[S, E], S]) -> Callable[[S, E], S]:
    """One Update that applies several from left to right to the same experience.

    >>> double = compose(lambda s, e: s + e, lambda s, e: s + e)
    >>> double(1, 10)
    21
    """
    if not updates:
        raise TypeError("updates: expected at least one Update, got none.")
    return Compose(updates=tuple(signatures.update("updates", u) for u in updates))


@state
class Repeat(Combinator):
    """An Update, several times; made by `repeat`."""

    update: Update
    times: int = static()

    child_fields = ("update",)

    def calls(self, n: int) -> int:
        return self.times * calls(self.update, n)

    def __call__(self, state: Any, exp: Any) -> Any:
        for _ in range(self.times):
            state = contracts.update_output(self.update(state, exp), state)
        return state


def repeat(update: Callable[[S, E], S], times: int) -> Callable[[S, E], S]:
    """Apply an Update several times to the same experience."""
    return Repeat(update=signatures.update("update", update), times=positive_int("times", times))


@state
class At(Combinator):
    """An Update on a slot; made by `at`."""

    update: Update
    slot: str = static()

    child_fields = ("update",)
    once = True
    whole = False

    def calls(self, n: int) -> int:
        return calls(self.update, n)

    def __call__(self, state: Any, exp: Any) -> Any:
        return tree.set(state, {self.slot: self.update(tree.get(state, self.slot), exp)})


def at(slot: str, update: Update) -> Update:
    """Lift an Update on one slot, `(state.slot, exp) -> state.slot`, to the whole agent. The slot is a path."""
    return At(update=signatures.update("update", update), slot=checks.path("slot", slot, "replay"))


def when(condition: Callable[[S, E], Tensor], update: Callable[[S, E], S]) -> Callable[[S, E], S]:
    """Apply an Update only if `condition(state, exp)`, () bool, is true.

    Vmapped or compiled, the update is always computed and one of the two states is selected, since lanes may differ; so it is meant
    for cheap updates such as a snapshot. The result is a single leaf: transformations see one function.
    """
    signatures.function("condition", condition, 2, "a function (state, exp) -> () bool")
    signatures.update("update", update)
    return functools.partial(_conditional, condition=condition, update=update)


def _conditional(state: S, exp: E, *, condition: Callable[[S, E], Tensor], update: Callable[[S, E], S]) -> S:
    chosen = condition(state, exp)
    if not isinstance(chosen, bool):
        if not isinstance(chosen, Tensor) or chosen.dtype != torch.bool or chosen.ndim:
            raise checks.type_error("condition", "it to give one bool, a tensor bool[] such as mask.any()", chosen)
        if not is_eager_cpu(chosen):
            return tree.where(chosen, contracts.update_output(update(state, exp), state, leaves=True), state)
    return contracts.update_output(update(state, exp), state) if chosen else state


def maybe_init(agent: S, **fields: Callable[[S], Any]) -> S:
    """Fill only the fields that are None, in the order given; each function is called with the state filled so far.

    >>> import cl_func as cl
    >>> agent = cl.Agent(key=cl.key(0))
    >>> agent = maybe_init(agent, model=lambda s: torch.zeros(2), opt=lambda s: torch.ones_like(s.model))
    >>> agent.opt
    tensor([1., 1.])
    """
    if not all((dataclasses.is_dataclass(agent), hasattr(agent, "replace"))):
        raise checks.no_agent("agent", agent, "fields")
    for name, make in fields.items():
        signatures.function(name, make, 1, "a function of the state")
        agent = tree.replace(agent, **{name: make(agent)}) if tree.get(agent, name) is None else agent
    return agent

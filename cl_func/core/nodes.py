"""The interface of combinators, on which everything that walks an update (fusion, timing, checkpoints, checks) is written once.

    Combinator    a node over Updates: Compose, Repeat, At, Minibatches, or one of your own
    Wrapper       a function around another one: what `cl.vmap` or `cl.compile` makes of a leaf

A combinator of your own is one `@cl.state` class that derives from `Combinator`, names the fields that are Updates and defines
`calls`. Sweeps, compilation, checkpoints and `cl.check_finite` then work with it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self, TypeVar

from torch import Tensor

from cl_func import tree
from cl_func.core.kinds import Update

F = TypeVar("F")  # an Update, of whatever states
Order = Callable[[Any, Any], tuple[Any, tuple[Tensor, Tensor]]]  # (state, exp) -> (state, (rows, valid)): the rows to iterate over


class Combinator:
    """A node over Updates: `(state, exp) -> state`, which calls its children from Python, outside of compiled code."""

    child_fields: ClassVar[tuple[str, ...]] = ()  # the names of the fields that are Updates
    # Only calls its children from left to right and can have any number of them, so neighbouring ones may be merged.
    sequential: ClassVar[bool] = False
    # Calls each child once, in order, on the same experience, so it may become part of one program.
    once: ClassVar[bool] = False
    # Passes the whole state to its children, so a run can be saved between their calls.
    whole: ClassVar[bool] = True

    def __call__(self, state: Any, exp: Any) -> Any:
        """The state after one experience."""
        raise NotImplementedError

    @property
    def children(self) -> tuple[Update, ...]:
        """The Updates that this node calls."""
        return tuple(getattr(self, name) for name in self.child_fields)

    def rebuild(self, children: tuple[Update, ...]) -> Self:
        """The same node over other Updates, one for each child."""
        return tree.replace(self, **dict(zip(self.child_fields, children, strict=True)))

    def calls(self, n: int) -> int:
        """The number of leaf calls in one call of this node on an experience of n rows; for a child use `nodes.calls(child, n)`."""
        raise NotImplementedError

    @property
    def orders(self) -> tuple[Order, ...]:
        """The Orders that this node calls besides its children, such as one that shuffles."""
        return ()

    def reordered(self, orders: tuple[Order, ...]) -> Self:
        """The same node with other Orders, one for each of `orders`."""
        return self

    def simplified(self) -> Update:
        """An Update with fewer nodes that does the same, if there is one; otherwise this node."""
        return self


@dataclasses.dataclass(frozen=True)
class Wrapper:
    """A function around another one, `inner`."""

    inner: Callable[..., Any]

    same: ClassVar[bool] = False  # returns what `inner` returns, computed in another way
    closed: ClassVar[bool] = False  # is a program of its own, not to be fused with its neighbours

    def __call__(self, state: Any, exp: Any) -> Any:
        """Call `inner` in the way of this wrapper."""
        raise NotImplementedError

    def around(self, inner: Callable[..., Any]) -> Self:
        """The same wrapper around another function."""
        return dataclasses.replace(self, inner=inner)

    def lifted(self, function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """A function of the arguments of `inner`, as a function of the arguments of this wrapper."""
        return function


def calls(update: Update, n: int) -> int:
    """The number of leaf calls that an Update makes on an experience of n rows."""
    return update.calls(n) if isinstance(update, Combinator) else 1


def unwrapped(update: Update) -> Update:
    """An Update without the wrappers that only change how it is computed."""
    while isinstance(update, Wrapper) and update.same:
        update = update.inner
    return update


def in_order(update: Update) -> Iterator[Update]:
    """The Updates that an Update calls one after the other, the same compiled or not; loops and `at` are not opened."""
    update = unwrapped(update)
    simple = update.simplified() if isinstance(update, Combinator) else update
    if simple is not update:
        yield from in_order(simple)
    elif isinstance(update, Fused):
        yield from itertools.chain.from_iterable(map(in_order, update.parts))
    elif isinstance(update, Combinator) and update.sequential:
        yield from itertools.chain.from_iterable(map(in_order, update.children))
    else:
        yield update


@dataclasses.dataclass(frozen=True)
class Fused:
    """Neighbouring leaves as a single one, to be compiled to one program."""

    parts: tuple[Update, ...]

    def __call__(self, state: Any, exp: Any) -> Any:
        for part in self.parts:
            state = part(state, exp)
        return state


def fuse(update: F) -> F:
    """The same Update with neighbouring leaves merged and loops of a single round removed; other loops stay loops."""
    fused: Any = _fused(update)
    return fused


def _fused(update: Any) -> Update:
    if not isinstance(update, Combinator):
        return update
    simple = update.simplified()
    if simple is not update:
        return _fused(simple)
    children = tuple(map(_fused, update.children))
    if update.sequential:
        merged = _merged(children)
        return merged[0] if len(merged) == 1 else update.rebuild(merged)
    node = update.rebuild(children)
    return Fused((node,)) if update.once and all(map(_is_leaf, children)) else node


def _merged(updates: tuple[Any, ...]) -> tuple[Update, ...]:
    merged: list[Any] = []
    for part in [p for update in updates for p in (update.children if _sequential(update) else (update,))]:
        if merged and _is_leaf(part) and _is_leaf(merged[-1]):
            before = merged.pop()
            merged.append(Fused((*(before.parts if isinstance(before, Fused) else (before,)), part)))
        else:
            merged.append(part)
    return tuple(merged)


def _sequential(update: Update) -> bool:
    return isinstance(update, Combinator) and update.sequential


def _is_leaf(update: Update) -> bool:
    return not isinstance(update, Combinator) and not (isinstance(update, Wrapper) and update.closed)

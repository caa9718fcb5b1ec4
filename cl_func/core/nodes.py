"""What a combinator tells of itself, so that whatever walks an update, to fuse, time, save or watch it, is written once.

    Combinator    a node over Updates: Compose, Repeat, At, Minibatches, or one of your own
    Wrapper       one function around another: what `cl.vmap` or `cl.compile` makes of a leaf

A combinator of your own is one `@cl.state` class that derives from `Combinator`: it names the fields that are Updates and gives
`calls`. Sweeps, compilation, checkpoints and `cl.check_finite` then work with it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

from cl_func import tree
from cl_func.core.kinds import Update


class Combinator:
    """A node over Updates: `(state, exp) -> state`, by calls of its children in Python, outside of what is compiled."""

    child_fields: ClassVar[tuple[str, ...]] = ()  # the names of the fields that are Updates
    sequential: ClassVar[bool] = False  # only calls its children from left to right: neighbours can become one, it takes any number
    once: ClassVar[bool] = False  # calls each child once, in order, on the experience as it is: a program may hold it whole
    whole: ClassVar[bool] = True  # gives its children the whole state: a run can be saved between their calls

    def __call__(self, state: Any, exp: Any) -> Any:
        """The state after an experience."""
        raise NotImplementedError

    @property
    def children(self) -> tuple[Update, ...]:
        """The Updates that it calls."""
        return tuple(getattr(self, name) for name in self.child_fields)

    def rebuild(self, children: tuple[Update, ...]) -> Self:
        """The same node over other Updates, one for each of its children."""
        return tree.replace(self, **dict(zip(self.child_fields, children, strict=True)))

    def calls(self, n: int) -> int:
        """How many calls of leaves one call makes on an experience of n rows; `calls(child, n)` tells it of a child."""
        raise NotImplementedError

    @property
    def orders(self) -> tuple[Callable[[Any, Any], Any], ...]:
        """Functions `(state, exp) -> (state, (rows, valid))` that it calls too, such as to shuffle."""
        return ()

    def reordered(self, orders: tuple[Callable[[Any, Any], Any], ...]) -> Self:
        """The same node with other such functions, one for each."""
        return self

    def simplified(self) -> Update:
        """An Update that does the same in fewer nodes, if there is one; else itself."""
        return self


@dataclasses.dataclass(frozen=True)
class Wrapper:
    """A function around another one, `inner`."""

    inner: Callable[..., Any]

    same: ClassVar[bool] = False  # gives what the inner one gives: another way to compute the same
    closed: ClassVar[bool] = False  # is a program of its own, which no neighbour is fused with

    def around(self, inner: Callable[..., Any]) -> Self:
        """The same around another function."""
        return dataclasses.replace(self, inner=inner)

    def lifted(self, function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """A function of what the inner one is given as a function of what this one is given."""
        return function


def calls(update: Any, n: int) -> int:
    """How many calls of leaves an Update makes on an experience of n rows."""
    return update.calls(n) if isinstance(update, Combinator) else 1


def unwrapped(update: Any) -> Any:
    """An Update without the wrappers that only compute it in another way."""
    while isinstance(update, Wrapper) and update.same:
        update = update.inner
    return update


def in_order(update: Any) -> Iterator[Any]:
    """The Updates that an Update is made of, one after the other, compiled or not; loops and slots are not looked into."""
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
    """Neighbouring leaves as one: a single program instead of several calls."""

    parts: tuple[Callable[[Any, Any], Any], ...]

    def __call__(self, state: Any, exp: Any) -> Any:
        for part in self.parts:
            state = part(state, exp)
        return state


def fuse(update: Any) -> Any:
    """The same Update with neighbouring leaves merged and nodes of one round taken away; loops of several rounds stay loops."""
    if not isinstance(update, Combinator):
        return update
    simple = update.simplified()
    if simple is not update:
        return fuse(simple)
    children = tuple(map(fuse, update.children))
    if update.sequential:
        merged = _merged(children)
        return merged[0] if len(merged) == 1 else update.rebuild(merged)
    node = update.rebuild(children)
    return Fused((node,)) if update.once and all(map(_is_leaf, children)) else node


def _merged(updates: tuple[Any, ...]) -> tuple[Any, ...]:
    merged: list[Any] = []
    for part in [p for update in updates for p in (update.children if _sequential(update) else (update,))]:
        if merged and _is_leaf(part) and _is_leaf(merged[-1]):
            before = merged.pop()
            merged.append(Fused((*(before.parts if isinstance(before, Fused) else (before,)), part)))
        else:
            merged.append(part)
    return tuple(merged)


def _sequential(update: Any) -> bool:
    return isinstance(update, Combinator) and update.sequential


def _is_leaf(update: Any) -> bool:
    return not isinstance(update, Combinator) and not (isinstance(update, Wrapper) and update.closed)

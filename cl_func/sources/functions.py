"""Functions as a part of a source's structure: equal ones must compare equal, or a compiled program would not be found again."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from cl_func.tree import describe

PLAIN = (type(None), bool, int, float, str, bytes)


@dataclasses.dataclass(frozen=True, eq=False)
class Bound:
    """A `functools.partial` that equals another one of the same function and arguments; tensors among these by identity."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]

    def __call__(self, *args: Any) -> Any:
        """The function's value."""
        return self.function(*self.args, *args, **dict(self.keywords))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bound) or self.function != other.function or len(self.args) != len(other.args):
            return False
        named, others = dict(self.keywords), dict(other.keywords)
        pairs = [*zip(self.args, other.args, strict=True), *((named[name], others[name]) for name in named.keys() & others.keys())]
        return named.keys() == others.keys() and all(a is b or (type(a) is type(b) and _plain(a) and a == b) for a, b in pairs)

    def __hash__(self) -> int:
        return hash((self.function, len(self.args)))


def call(name: str, function: Callable[..., Any], *args: Any) -> Any:
    """The value of a user's function for the first rows; an error that it raises names the argument."""
    try:
        return function(*args)
    except Exception as error:
        given = ", ".join(describe(arg) for arg in args)
        raise TypeError(f"{name}: it raised {type(error).__name__} when it was called with {given}: {error}") from error


def _plain(value: Any) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, tuple) and all(map(_plain, value)))


def comparable(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, a partial as a Bound."""
    if isinstance(function, functools.partial):
        return Bound(function.func, function.args, tuple(sorted(function.keywords.items())))
    return function

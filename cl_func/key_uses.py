"""What becomes of keys: a record of what draws from them and what derives from them, for the law that each is used once."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_func import random

DRAWS = ("bits", "uniform", "normal", "randint", "bernoulli", "permutation", "categorical")
DERIVES = ("split", "fold_in", "children")
HERE = {str(Path(random.__file__)), __file__}


class KeyUses:
    """The record: by a key's value, where it was drawn from and where it was derived from.

    faults: in words, each key that was drawn from twice, or both drawn from and derived from. To derive the same child twice is no
    fault of its own, since it is one key: that it is drawn from twice is. Only the outermost call counts: `normal` draws by `bits`.
    """

    def __init__(self) -> None:
        self.drawn: dict[int, str] = {}
        self.derived: dict[int, str] = {}
        self.faults: list[str] = []
        self.depth = 0

    def note(self, name: str, place: str, keys: set[int]) -> None:
        """One call. Lanes or rows that share a key share it by intent: within a call it counts once."""
        for key in keys:
            drawn, derived = self.drawn.get(key), self.derived.get(key)
            if name in DRAWS and drawn is not None:
                self.faults.append(f"the key {key} is drawn from twice, by {drawn} and by {place}")
            elif name in DRAWS and derived is not None:
                self.faults.append(f"the key {key} is derived from and drawn from, by {derived} and by {place}")
            elif name in DERIVES and drawn is not None:
                self.faults.append(f"the key {key} is drawn from and derived from, by {drawn} and by {place}")
            (self.drawn if name in DRAWS else self.derived).setdefault(key, place)


@contextlib.contextmanager
def recorded_keys() -> Iterator[KeyUses]:
    """Within it, what eager code does with keys by the functions of `cl.random` is recorded."""
    uses = KeyUses()
    functions = {name: getattr(random, name) for name in (*DRAWS, *DERIVES, "key")}
    watched = {function: _watched(uses, name, function) for name, function in functions.items()}
    # Also where one was imported by its name.
    places = [
        (module, name, function)
        for module in list(sys.modules.values())
        for name, function in functions.items()
        if getattr(module, "__dict__", {}).get(name) is function
    ]
    for module, name, function in places:
        setattr(module, name, watched[function])
    try:
        yield uses
    finally:
        for module, name, function in places:
            setattr(module, name, function)


def _watched(uses: KeyUses, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        uses.depth += 1
        try:
            out = function(*args, **kwargs)
        finally:
            uses.depth -= 1
        if uses.depth == 0 and name != "key":  # the root key of a seed is no child of another
            uses.note(name, f"{name} in {_line()}", _values(args[0] if args else kwargs["key"]))
        return out

    return call


def _values(value: Tensor) -> set[int]:
    """The keys in a tensor, of all lanes and under all gradients that are being taken."""
    while torch._C._functorch.is_functorch_wrapped_tensor(value):
        value = torch._C._functorch.get_unwrapped(value)
    return set(value.flatten().tolist())


def _line() -> str:
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename in HERE:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"

"""Which keys a function draws from, and where: the law that a key is used once.

Two draws from one key are the same numbers. A test cannot see that in the numbers of one call, so within `recorded` every call of
`cl_func.random` is noted: a key that is drawn from twice, or drawn from and derived from, is told with the two lines.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_func import models, random, tree

# What is on the way from the line that is to be told to the draw itself: torch's transformations, layers, the draws' own functions.
BETWEEN = (str(Path(torch.__file__).parent), str(Path(models.__file__).parent), random.__file__, __file__)


@dataclass
class KeyUses:
    """The keys used since it was opened, and the first line that drew, or derived, from each."""

    known: set[int]  # the keys to watch; their children are added
    drawn: dict[int, str] = field(default_factory=dict)
    derived: dict[int, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def draw(self, keys: set[int]) -> None:
        """Note a draw from keys."""
        line = _line()
        for key in keys & self.known:
            if key in self.drawn:
                self.faults.append(f"one key is drawn from twice, in {self.drawn[key]} and in {line}")
            elif key in self.derived:
                self.faults.append(f"one key is derived from, in {self.derived[key]}, and drawn from, in {line}")
            self.drawn[key] = line

    def derive(self, keys: set[int], children: set[int]) -> None:
        """Note that children came from keys."""
        line = _line()
        for key in keys & self.known:
            if key in self.drawn:
                self.faults.append(f"one key is drawn from, in {self.drawn[key]}, and derived from, in {line}")
            self.derived.setdefault(key, line)
            self.known |= children


@contextlib.contextmanager
def recorded(*keys: Tensor) -> Iterator[KeyUses]:
    """Note what is done with some keys, and with what is derived from them, while it is open.

    The functions of `cl_func.random` are replaced meanwhile, since a check in them would cost every step of every run.
    """
    uses = KeyUses(set().union(*map(_numbers, keys)))

    def noting(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def noted(key: Tensor, *rest: Any, **options: Any) -> Tensor:
            out = function(key, *rest, **options)
            if function is originals["bits"]:
                uses.draw(_numbers(key))
            else:
                uses.derive(_numbers(key), _numbers(out))
            return out

        return noted

    originals: dict[str, Any] = {name: getattr(random, name) for name in ("bits", "split", "fold_in", "children")}
    # Also where one was imported by its name.
    places: list[tuple[Any, str, Any]] = [
        (module, name, function)
        for module in list(sys.modules.values())
        for name, function in originals.items()
        if getattr(module, "__dict__", {}).get(name) is function
    ]
    for module, name, function in places:
        setattr(module, name, noting(function))
    try:
        yield uses
    finally:
        for module, name, function in places:
            setattr(module, name, function)


def _numbers(key: Tensor) -> set[int]:
    return set(tree._unwrap_all(key).flatten().tolist())


def _line() -> str:
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(BETWEEN):
        frame = frame.f_back
    code = frame.f_code
    return f"{Path(code.co_filename).name}:{frame.f_lineno} ({code.co_name})"

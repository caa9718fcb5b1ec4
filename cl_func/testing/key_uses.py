"""Which keys a function draws from, and where: the law that a key is used once.

Two draws from one key are the same numbers, which the numbers of one call do not show. So within `record_key_uses` every call of
`cl_func.random` is recorded: a key that is drawn from twice, or both drawn from and derived from, is reported with the two lines.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_func import models, random
from cl_func.random import keys, words
from cl_func.torch_private import unwrap_all

# The functions that all draws of `cl_func.random` pass through, and those that all children do.
DRAWS, CHILDREN = (words.words_at, words.many_words, words.few_words), (keys.split, keys.fold_in, keys.children)

# Frames between a draw and the line to report: torch's transformations, layers, the functions of `cl_func.random` themselves.
SKIPPED = (str(Path(torch.__file__).parent), str(Path(models.__file__).parent), str(Path(random.__file__).parent), __file__)


@dataclass
class KeyUses:
    """The keys used so far, and the first line that drew from, or derived from, each."""

    watched: set[int]  # their children are added
    drawn: dict[int, str] = field(default_factory=dict)
    derived: dict[int, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def draw(self, keys: set[int]) -> None:
        """Record a draw from keys."""
        line = _line()
        for key in keys & self.watched:
            if key in self.drawn:
                self.faults.append(f"one key is drawn from twice, in {self.drawn[key]} and in {line}")
            elif key in self.derived:
                self.faults.append(f"one key is derived from, in {self.derived[key]}, and drawn from, in {line}")
            self.drawn[key] = line

    def derive(self, keys: set[int], children: set[int]) -> None:
        """Record that children were derived from keys."""
        line = _line()
        for key in keys & self.watched:
            if key in self.drawn:
                self.faults.append(f"one key is drawn from, in {self.drawn[key]}, and derived from, in {line}")
            self.derived.setdefault(key, line)
            self.watched |= children


@contextlib.contextmanager
def record_key_uses(*keys: Tensor) -> Iterator[KeyUses]:
    """Record, within the context, what is done with some keys and with the keys derived from them.

    The functions of `cl_func.random` are replaced meanwhile: a check within them would slow down every step of every run.
    """
    uses = KeyUses(set().union(*map(_numbers, keys)))

    # Every module that has one of them as a global, since some import them by name.
    globals_of_modules: list[tuple[Any, str, Callable[..., Any]]] = [
        (module, function.__name__, function)
        for module in list(sys.modules.values())
        for function in DRAWS + CHILDREN
        if getattr(module, "__dict__", {}).get(function.__name__) is function
    ]
    for module, name, function in globals_of_modules:
        setattr(module, name, functools.partial(_recorded, uses, function))
    try:
        yield uses
    finally:
        for module, name, function in globals_of_modules:
            setattr(module, name, function)


def _recorded(uses: KeyUses, function: Callable[..., Any], key: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A call of a function of `cl_func.random`, recorded."""
    out = function(key, *args, **kwargs)
    if function in DRAWS:
        uses.draw(_numbers(key))
    else:
        uses.derive(_numbers(key), _numbers(out))
    return out


def _numbers(key: Tensor) -> set[int]:
    return set(unwrap_all(key).flatten().tolist())


def _line() -> str:
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(SKIPPED):
        frame = frame.f_back
    code = frame.f_code
    return f"{Path(code.co_filename).name}:{frame.f_lineno} ({code.co_name})"

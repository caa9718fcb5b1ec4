"""Values in words, for messages and for the repr of a state."""

from __future__ import annotations

import dataclasses
import functools
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor

_LONGEST = 300  # characters of a value in an error message


def describe(value: Any) -> str:
    """A value in words: a tensor as dtype[shape], a container by its contents, a function by its name, anything else by its repr.

    What is longer than 300 characters has its middle left out.
    """
    text = "".join(line if line.endswith("(") else f"{line} " for line in map(str.strip, _words(value).split("\n"))).strip()
    return text if len(text) <= _LONGEST else " ".join(f"{text[:200]} ... {text[-50:]}".split())


def _words(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_words(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        inner = ", ".join(_words(v) for v in value)
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    if isinstance(value, functools.partial):
        given = [*(_words(v) for v in value.args), *(f"{k}={_words(v)}" for k, v in value.keywords.items())]
        return f"{_words(value.func)}({', '.join(given)})"
    if dataclasses.is_dataclass(value) and hasattr(type(value).__repr__, "__wrapped__"):  # the repr that dataclasses make
        return state_repr(value)
    if isinstance(value, (FunctionType, MethodType)):  # whose repr has an address, as that of any object has
        return value.__qualname__
    return repr(value) if type(value).__repr__ is not object.__repr__ else type(value).__qualname__


def state_repr(node: Any) -> str:
    """The repr of a state: its fields with shapes and dtypes, on one line of at most 100 characters or a line each."""
    shown = [f"{f.name}={_words(getattr(node, f.name))}" for f in dataclasses.fields(node)]
    line = f"{type(node).__name__}({', '.join(shown)})"
    if len(line) <= 100:
        return line
    body = ",\n".join("  " + part.replace("\n", "\n  ") for part in shown)
    return f"{type(node).__name__}(\n{body},\n)"

"""What `cl.random_grid` draws the values of a path from.

    cl.log(1e-4, 1)          numbers, uniform on the scale of their logarithms
    cl.uniform(0, 0.9)       numbers
    cl.integers(8, 64)       whole numbers, both ends included
    cl.choice([1, 2, 5])     one of some values

Random search: Bergstra & Bengio, "Random search for hyper-parameter optimization", JMLR 2012.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from cl_func import checks, random

Value = float | Tensor  # of a leaf; ints and bools are floats to a type checker


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from low to high, and how they are drawn."""

    scale: Literal["log", "uniform", "integers"]
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Choice:
    """Some values, each as likely as the others."""

    values: tuple[Value, ...]


def log(low: float, high: float) -> Range:
    """Numbers from [low, high), log-uniform: as many from 0.001 to 0.01 as from 0.01 to 0.1. Raises unless 0 < low < high."""
    return number_range(("low", "high"), "low, high:", low, high, log=True)


def uniform(low: float, high: float) -> Range:
    """Numbers from [low, high), uniform. Raises TypeError or ValueError unless low < high."""
    return number_range(("low", "high"), "low, high:", low, high, log=False)


def number_range(names: tuple[str, str], both: str, low: Any, high: Any, *, log: bool) -> Range:
    """A range of numbers, checked; names: what errors call its ends, and `both` of them."""
    low, high = checks.number(names[0], low), checks.number(names[1], high)
    if not low < high or (log and low <= 0):
        raise ValueError(f"{both} needs low < high{' and low > 0' if log else ''}, got ({low}, {high}).")
    return Range("log" if log else "uniform", low, high)


def integers(low: int, high: int) -> Range:
    """The integers from low to high, both included, each as likely. Raises TypeError or ValueError unless low < high."""
    for name, bound in (("low", low), ("high", high)):
        if isinstance(bound, bool) or not isinstance(bound, int):
            raise checks.type_error(name, "an integer", bound)
        if not -(1 << 53) <= bound <= 1 << 53:
            raise ValueError(f"{name}: expected an integer of at most 53 bits, got {bound}.")
    if not low < high:
        raise ValueError(f"low, high: needs low < high, got ({low}, {high}); a single value needs no range.")
    return Range("integers", low, high)


def choice(values: Sequence[Any]) -> Choice:
    """One of some values, numbers or tensors, each as likely. Raises TypeError or ValueError for others, and for one twice."""
    found = check_values("values", values)
    labels = [label_of(value) for value in found]
    repeated = [one for i, one in enumerate(labels) if one in labels[:i]]
    if repeated:
        raise ValueError(f"values: {repeated[0]} occurs twice; give each once.")
    return Choice(tuple(found))


def check_values(what: str, given: Any) -> list[Value]:
    """Check a sequence of values of a leaf; ValueError, beginning with `what`, otherwise."""
    array = isinstance(given, (Tensor, np.ndarray)) and given.ndim
    if isinstance(given, (str, bytes)) or not (array or isinstance(given, Sequence)) or len(given) == 0:
        raise ValueError(f"{what} needs a sequence of at least one value, got {checks.describe(given)}.")
    found = []
    for value in given:
        known = as_value(value)
        if known is None:
            raise ValueError(f"{what} takes numbers other than NaN, and tensors that hold values, got {checks.describe(value)}.")
        found.append(known)
    return found


def as_value(value: Any) -> Value | None:
    """A value as it is set and labelled: a Python number, or a tensor with dimensions; None for anything else."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor):
        if value.is_meta or value.ndim:
            return None if value.is_meta else value
        value = value.item()
    return value if isinstance(value, (bool, int, float)) and not math.isnan(value) else None


def label_of(value: Value) -> Any:
    """What a value is called in `Runs`: a tensor is a list of its numbers."""
    return value.tolist() if isinstance(value, Tensor) else value


def draw(within: Range | Choice, key: Tensor, n: int) -> list[Value]:
    """n values; of a longer draw with the same key they are the first ones."""
    if isinstance(within, Choice):
        return [within.values[i] for i in random.randint(key, n, 0, len(within.values)).tolist()]
    low, high = within.low, within.high
    if within.scale == "integers":
        return random.randint(key, n, int(low), int(high) + 1).tolist()
    u = random.uniform(key, n).tolist()
    if within.scale == "log":
        return [math.exp(math.log(low) + x * math.log(high / low)) for x in u]
    return [low + x * (high - low) for x in u]


def count(within: Range | Choice) -> float:
    """How many values there are; infinity for numbers that are not whole."""
    if isinstance(within, Choice):
        return len(within.values)
    return within.high - within.low + 1 if within.scale == "integers" else math.inf

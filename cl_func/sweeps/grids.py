"""Hyperparameters of a sweep: which leaves of the state take which values, by path.

    cl.grid({"opt.lr": [0.03, 0.1], "lwf.strength": [0.5, 1.0]})       every combination: two axes
    cl.zipped({"opt.lr": [0.03, 0.1], "lwf.strength": [0.5, 1.0]})     side by side: one axis of two points
    cl.random_grid(20, {"opt.lr": (1e-3, 1.0)}, key=cl.key(0))         one axis of 20 points drawn log-uniformly

Random search: Bergstra & Bengio, "Random search for hyper-parameter optimization", JMLR 2012.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from cl_func import checks, random
from cl_func.checks import positive_int


@dataclasses.dataclass(frozen=True)
class Grid:
    """Axes in order, each a name and its points; a point is a mapping from paths to values."""

    axes: tuple[tuple[str, tuple[Mapping[str, Any], ...]], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of points along each axis."""
        return tuple(len(points) for _, points in self.axes)

    def points(self) -> list[dict[str, Any]]:
        """Every combination, the last axis fastest, as the changes for `tree.set`."""
        products = itertools.product(*(points for _, points in self.axes))
        return [{path: value for point in combination for path, value in point.items()} for combination in products]


def _plain(value: Any) -> Any:
    """A value as it is set and labelled: numbers as Python's own, other tensors as they are; None for what is neither."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor):
        if value.is_meta or value.ndim:
            return None if value.is_meta else value
        value = value.item()
    return value if isinstance(value, (bool, int, float)) and not math.isnan(value) else None


def _values(values: Mapping[str, Any]) -> dict[str, list[Any]]:
    if not isinstance(values, Mapping):
        raise checks.type_error("values", "a mapping from paths to values such as {'opt.lr': [0.1, 0.3]}", values)
    listed = {}
    for path, some in values.items():
        if not isinstance(path, str) or not path:
            raise ValueError(f"values: a path is a non-empty string such as 'opt.lr', got {path!r}.")
        array = isinstance(some, (Tensor, np.ndarray)) and some.ndim
        if isinstance(some, (str, bytes)) or not (array or isinstance(some, Sequence)) or len(some) == 0:
            raise ValueError(f"values: {path!r} needs a sequence of at least one value, got {checks.describe(some)}.")
        listed[path] = [_plain(value) for value in some]
        wrong = [value for value, plain in zip(some, listed[path], strict=True) if plain is None]
        if wrong:
            raise ValueError(f"values: {path!r} takes numbers and tensors that are known, got {checks.describe(wrong[0])}.")
    return listed


def grid(values: Mapping[str, Sequence[Any]]) -> Grid:
    """Every combination of the values of some paths; one axis per path, in the order given.

    Raises TypeError or ValueError for anything but a mapping from paths to sequences of distinct numbers (or tensors, for leaves
    that are no single number).

    >>> grid({"opt.lr": [0.1, 0.3], "lwf.strength": [1.0]}).points()
    [{'opt.lr': 0.1, 'lwf.strength': 1.0}, {'opt.lr': 0.3, 'lwf.strength': 1.0}]
    """
    axes = []
    for path, some in _values(values).items():
        points = tuple({path: value} for value in some)
        _distinct(points)
        axes.append((path, points))
    return Grid(tuple(axes))


def _distinct(points: Sequence[Mapping[str, Any]]) -> None:
    labels = [label(point) for point in points]
    twice = [one for i, one in enumerate(labels) if one in labels[:i]]
    if twice:
        raise ValueError(f"values: a point occurs twice: {twice[0]}; give each once.")


def label(point: Mapping[str, Any]) -> Any:
    """A point as `Runs` names it: its value, or its values by path, with tensors as lists of numbers."""
    named = {path: value.tolist() if isinstance(value, Tensor) else value for path, value in point.items()}
    return next(iter(named.values())) if len(named) == 1 else named


def zipped(values: Mapping[str, Sequence[Any]]) -> Grid:
    """The values of some paths side by side: one axis, named by the paths, whose point i has the i-th value of each.

    Raises ValueError also for sequences of different lengths.
    """
    listed = _values(values)
    if not listed:
        raise ValueError("values: expected at least one path with its values, got none.")
    lengths = {path: len(some) for path, some in listed.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"values: every path needs the same number of values, got {lengths}.")
    points = tuple(dict(zip(listed, point, strict=True)) for point in zip(*listed.values(), strict=True))
    _distinct(points)
    return Grid(((" & ".join(listed), points),))


def random_grid(n: int, ranges: Mapping[str, tuple[float, float]], *, key: Tensor, log: bool = True) -> Grid:
    """n points drawn from ranges (low, high), log-uniformly or uniformly: one axis.

    Raises TypeError or ValueError for n < 1, low >= high, low <= 0 with `log`, and other arguments.
    """
    positive_int("n", n)
    checks.key("key", key)
    checks.flag("log", log)
    if not isinstance(ranges, Mapping) or not ranges:
        raise checks.type_error("ranges", "a mapping from paths to (low, high) such as {'opt.lr': (1e-3, 1.0)}", ranges)
    drawn: dict[str, list[float]] = {}
    for i, (path, bounds) in enumerate(ranges.items()):
        checks.path("ranges", path, "opt.lr")
        if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
            raise checks.type_error(f"ranges: {path!r}", "two numbers (low, high)", bounds)
        low, high = (checks.number(f"ranges: {path!r}", bound) for bound in bounds)
        if not low < high or (log and low <= 0):
            raise ValueError(f"ranges: {path!r} needs low < high{' and low > 0' if log else ''}, got ({low}, {high}).")
        u = random.uniform(random.fold_in(key, i), n).tolist()
        drawn[path] = [math.exp(math.log(low) + x * math.log(high / low)) if log else low + x * (high - low) for x in u]
    points = tuple(dict(zip(drawn, point, strict=True)) for point in zip(*drawn.values(), strict=True))
    return Grid(((" & ".join(drawn), points),))

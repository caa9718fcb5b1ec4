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
from cl_func.sweeps.named_axes import Label

Value = float | Tensor  # of a leaf; ints and bools are floats to a type checker
Point = Mapping[str, Value]  # by path


@dataclasses.dataclass(frozen=True)
class Grid:
    """Axes in order, each a name and its points; a point is a mapping from paths to values."""

    axes: tuple[tuple[str, tuple[Point, ...]], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of points along each axis."""
        return tuple(len(points) for _, points in self.axes)

    def points(self) -> list[dict[str, Value]]:
        """Every combination, the last axis varying fastest, as changes for `tree.set`."""
        products = itertools.product(*(points for _, points in self.axes))
        return [{path: value for point in combination for path, value in point.items()} for combination in products]


def _as_value(value: Any) -> Value | None:
    """A value as it is set and labelled: a Python number, or a tensor with dimensions; None for anything else."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor):
        if value.is_meta or value.ndim:
            return None if value.is_meta else value
        value = value.item()
    return value if isinstance(value, (bool, int, float)) and not math.isnan(value) else None


def _check_values(values: Mapping[str, Any]) -> dict[str, list[Value]]:
    if not isinstance(values, Mapping):
        raise checks.type_error("values", "a mapping from paths to values such as {'opt.lr': [0.1, 0.3]}", values)
    checked: dict[str, list[Value]] = {}
    for path, given in values.items():
        if not isinstance(path, str) or not path:
            raise ValueError(f"values: a path is a non-empty string such as 'opt.lr', got {path!r}.")
        array = isinstance(given, (Tensor, np.ndarray)) and given.ndim
        if isinstance(given, (str, bytes)) or not (array or isinstance(given, Sequence)) or len(given) == 0:
            raise ValueError(f"values: {path!r} needs a sequence of at least one value, got {checks.describe(given)}.")
        checked[path] = []
        for value in given:
            known = _as_value(value)
            if known is None:
                raise ValueError(
                    f"values: {path!r} takes numbers other than NaN, and tensors that hold values, got {checks.describe(value)}."
                )
            checked[path].append(known)
    return checked


def grid(values: Mapping[str, Sequence[Any]]) -> Grid:
    """Every combination of the values of some paths; one axis per path, in the order given.

    Raises TypeError or ValueError for anything but a mapping from paths to sequences of distinct numbers (or of tensors, for leaves
    that hold several numbers).

    >>> grid({"opt.lr": [0.1, 0.3], "lwf.strength": [1.0]}).points()
    [{'opt.lr': 0.1, 'lwf.strength': 1.0}, {'opt.lr': 0.3, 'lwf.strength': 1.0}]
    """
    axes = []
    for path, checked in _check_values(values).items():
        points = tuple({path: value} for value in checked)
        _check_distinct(points)
        axes.append((path, points))
    return Grid(tuple(axes))


def _check_distinct(points: Sequence[Point]) -> None:
    labels = [label(point) for point in points]
    repeated = [one for i, one in enumerate(labels) if one in labels[:i]]
    if repeated:
        raise ValueError(f"values: a point occurs twice: {repeated[0]}; give each once.")


def label(point: Point) -> Label:
    """The label of a point in `Runs`: its value, or its values by path, with tensors as lists of numbers."""
    by_path = {path: value.tolist() if isinstance(value, Tensor) else value for path, value in point.items()}
    return next(iter(by_path.values())) if len(by_path) == 1 else by_path


def zipped(values: Mapping[str, Sequence[Any]]) -> Grid:
    """The values of some paths side by side: one axis, named by the paths, whose point i has the i-th value of each.

    Raises as `grid` does, and ValueError for sequences of different lengths.
    """
    checked = _check_values(values)
    if not checked:
        raise ValueError("values: expected at least one path with its values, got none.")
    lengths = {path: len(column) for path, column in checked.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"values: every path needs the same number of values, got {lengths}.")
    points = tuple(dict(zip(checked, point, strict=True)) for point in zip(*checked.values(), strict=True))
    _check_distinct(points)
    return Grid(((" & ".join(checked), points),))


def random_grid(n: int, ranges: Mapping[str, tuple[float, float]], *, key: Tensor, log: bool = True) -> Grid:
    """n points drawn from ranges (low, high), log-uniformly or uniformly: one axis.

    Raises TypeError or ValueError for n < 1, low >= high, low <= 0 with `log`, and arguments of other types.
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

"""Hyperparameters of a sweep: which leaves of the state take which values, by path.

    cl.grid({"opt.lr": [0.03, 0.1], "lwf.strength": [0.5, 1.0]})       every combination: two axes
    cl.zipped({"opt.lr": [0.03, 0.1], "lwf.strength": [0.5, 1.0]})     side by side: one axis of two points
    cl.random_grid(20, {"opt.lr": cl.log(1e-4, 1)}, key=cl.key(0))     one axis of 20 points; other scales are in `ranges.py`

An axis of several paths is named by them, "opt.lr & lwf.strength".
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cl_func import checks, random
from cl_func.checks import positive_int
from cl_func.sweeps import ranges as scales
from cl_func.sweeps.named_axes import Label
from cl_func.sweeps.ranges import Choice, Range, Value

Point = Mapping[str, Value]  # by path


@dataclasses.dataclass(frozen=True)
class Grid:
    """Axes in order, each a name and its points; a point is a mapping from paths to values.

    scales: (path, "log", "uniform", "integers" or "choice") for paths whose values were drawn at random.
    """

    axes: tuple[tuple[str, tuple[Point, ...]], ...] = ()
    scales: tuple[tuple[str, str], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of points along each axis."""
        return tuple(len(points) for _, points in self.axes)

    def points(self) -> list[dict[str, Value]]:
        """Every combination, the last axis varying fastest, as changes for `tree.set`."""
        products = itertools.product(*(points for _, points in self.axes))
        return [{path: value for point in combination for path, value in point.items()} for combination in products]


def _check_values(values: Mapping[str, Any]) -> dict[str, list[Value]]:
    if not isinstance(values, Mapping):
        raise checks.type_error("values", "a mapping from paths to values such as {'opt.lr': [0.1, 0.3]}", values)
    checked: dict[str, list[Value]] = {}
    for path, given in values.items():
        if not isinstance(path, str) or not path:
            raise ValueError(f"values: a path is a non-empty string such as 'opt.lr', got {path!r}.")
        checked[path] = scales.check_values(f"values: {path!r}", given)
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
    by_path = {path: scales.label_of(value) for path, value in point.items()}
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


def random_grid(n: int, ranges: Mapping[str, Range | Choice | tuple[float, float]], *, key: Tensor, log: bool = True) -> Grid:
    """n different points drawn at random: one axis, named by the paths.

    ranges: path -> where its values come from: `cl.log(low, high)`, `cl.uniform(low, high)`, `cl.integers(low, high)` or
        `cl.choice(values)`; or (low, high), which is `cl.log` of them, or with log=False `cl.uniform`.
    Raises TypeError or ValueError for n < 1, for more points than there are, and for arguments of other types.
    """
    positive_int("n", n)
    checks.key("key", key)
    checks.flag("log", log)
    if not isinstance(ranges, Mapping) or not ranges:
        raise checks.type_error("ranges", "a mapping from paths to ranges such as {'opt.lr': cl.log(1e-3, 1.0)}", ranges)
    within = {checks.path("ranges", path, "opt.lr"): _range(path, given, log) for path, given in ranges.items()}
    count = math.prod(map(scales.count, within.values()))
    if n > count:
        raise ValueError(f"n: there are only {count:.0f} different points, got {n}; use cl.grid for all of them.")
    points, drawn = dict[str, Point](), n
    while len(points) < n:  # a longer draw begins with the shorter one
        columns = [scales.draw(one, random.fold_in(key, i), drawn) for i, one in enumerate(within.values())]
        for values in zip(*columns, strict=True):
            point = dict(zip(within, values, strict=True))
            points.setdefault(repr(label(point)), point)
        if len(points) < n and drawn > 1000 * n:  # of numbers that differ in their last digits there are few
            raise ValueError(f"n: {drawn} draws gave {len(points)} different points, fewer than {n}; give wider ranges.")
        drawn *= 2
    drawn_on = tuple((path, one.scale if isinstance(one, Range) else "choice") for path, one in within.items())
    return Grid(((" & ".join(within), tuple(points.values())[:n]),), drawn_on)


def _range(path: str, given: Any, log: bool) -> Range | Choice:
    if isinstance(given, (Range, Choice)):
        return given
    at = f"ranges: {path!r}"
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise checks.type_error(at, "cl.log(low, high), another range, cl.choice(values), or two numbers (low, high)", given)
    return scales.number_range((at, at), at, *given, log=log)

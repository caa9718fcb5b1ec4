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

from torch import Tensor

from cl_func import random
from cl_func.core import positive


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


def _values(name: str, values: Mapping[str, Any]) -> dict[str, list[Any]]:
    if not isinstance(values, Mapping):
        raise TypeError(f"{name}: expected a mapping from paths to values such as {{'opt.lr': [0.1, 0.3]}}, got {values!r}.")
    listed = {}
    for path, some in values.items():
        if not isinstance(path, str) or not path:
            raise ValueError(f"{name}: a path is a non-empty string such as 'opt.lr', got {path!r}.")
        if isinstance(some, (str, Mapping)) or not isinstance(some, (Sequence, Tensor)) or len(some) == 0:
            raise ValueError(f"{name}: {path!r} needs a sequence of at least one value, got {some!r}.")
        listed[path] = some.tolist() if isinstance(some, Tensor) else list(some)
        if len(set(listed[path])) != len(listed[path]):
            raise ValueError(f"{name}: {path!r} has a value twice: {listed[path]}; give each once.")
    return listed


def grid(values: Mapping[str, Sequence[Any]]) -> Grid:
    """Every combination of the values of some paths; one axis per path, in the order given.

    Raises TypeError or ValueError for anything but a mapping from paths to sequences of distinct values.

    >>> grid({"opt.lr": [0.1, 0.3], "lwf.strength": [1.0]}).points()
    [{'opt.lr': 0.1, 'lwf.strength': 1.0}, {'opt.lr': 0.3, 'lwf.strength': 1.0}]
    """
    return Grid(tuple((path, tuple({path: value} for value in some)) for path, some in _values("grid", values).items()))


def zipped(values: Mapping[str, Sequence[Any]]) -> Grid:
    """The values of some paths side by side: one axis, named by the paths, whose point i has the i-th value of each.

    Raises ValueError also for sequences of different lengths.
    """
    if not isinstance(values, Mapping) or not values:
        raise ValueError(f"zipped: expected a mapping from paths to values, got {values!r}.")
    lengths = {path: len(some) for path, some in values.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"zipped: every path needs the same number of values, got {lengths}.")
    points = tuple(dict(zip(values, point, strict=True)) for point in zip(*values.values(), strict=True))
    return Grid(((" & ".join(values), points),))


def random_grid(n: int, ranges: Mapping[str, tuple[float, float]], *, key: Tensor, log: bool = True) -> Grid:
    """n points drawn from ranges (low, high), log-uniformly or uniformly: one axis.

    Raises ValueError for n < 1, low >= high, or low <= 0 with `log`.
    """
    positive("n", n)
    drawn: dict[str, list[float]] = {}
    for i, (path, (low, high)) in enumerate(ranges.items()):
        if not low < high or (log and low <= 0):
            raise ValueError(f"ranges: {path!r} needs low < high{' and low > 0' if log else ''}, got ({low}, {high}).")
        u = random.uniform(random.fold_in(key, i), n).tolist()
        drawn[path] = [math.exp(math.log(low) + x * math.log(high / low)) if log else low + x * (high - low) for x in u]
    return zipped(drawn)

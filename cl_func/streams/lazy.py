"""What streams are made of: rows, and the source that they are rows of.

A `Lazy` is the `make` of a `Stream`. It gives an experience in two parts:
    view(i)     experience i with its rows, classes and task, over any source of the same length, whose rows are of the same
                targets, task labels and origin
    source(i)   the source of experience i, such as a permutation of the data
So whatever regroups rows (an online split, a validation part) counts and selects them without making any source.
A Lazy holds only tensors and module-level functions, so that every stream can be pickled.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from cl_func import tree
from cl_func.experiences import Experience, Stream
from cl_func.sources import Source
from cl_func.tree import describe

T = TypeVar("T")


class Lazy(abc.ABC):
    """The experiences of a stream, in two parts: calling it with i gives view(i) over source(i)."""

    @abc.abstractmethod
    def view(self, index: int) -> Experience:
        """Experience `index`, but for its source."""

    @abc.abstractmethod
    def source(self, index: int) -> Source:
        """The source of experience `index`."""

    @property
    def ordered(self) -> bool:
        """Whether the order of the rows is part of the stream, as in a blurred one, so that cutting it must not shuffle them."""
        return False

    def __call__(self, index: int) -> Experience:
        """Experience `index` as the stream gives it."""
        return tree.replace(self.view(index), source=self.source(index))


class Last(Generic[T]):
    """A function of an index that caches its last result, and only that one: for neighbouring pieces of one experience.

    The cache is not pickled. Threads may share one; at worst they compute a result twice.
    """

    def __init__(self, function: Callable[[int], T]) -> None:
        self.function = function
        self._cached: tuple[int, T] | None = None

    def __call__(self, index: int) -> T:
        """The function's value at `index`."""
        cached = self._cached
        if cached is None or cached[0] != index:
            cached = self._cached = None  # free the old result before the new one is made: both may be large
            cached = self._cached = (index, self.function(index))
        return cached[1]

    def __reduce__(self) -> tuple[type[Last[T]], tuple[Callable[[int], T]]]:
        return type(self), (self.function,)


@dataclasses.dataclass(frozen=True, eq=False)
class _Whole(Lazy):
    """The experiences of a stream that does not tell rows from their source: both parts are made at once."""

    made: Last[Experience]

    def view(self, index: int) -> Experience:
        return self.made(index)

    def source(self, index: int) -> Source:
        return self.made(index).source

    @property
    def ordered(self) -> bool:
        return getattr(self.made.function, "ordered", False)


def as_lazy(stream: Stream) -> Lazy:
    """The experiences of any stream as a Lazy. Those of a user's own stream have to be made to see their rows."""
    return stream.make if isinstance(stream.make, Lazy) else _Whole(Last(stream.make))


def check_pair(train: Source, test: Source) -> None:
    """Check that both are sources of one problem without task labels; TypeError or ValueError, naming what differs, otherwise."""
    rows = []
    for name, data in (("train", train), ("test", test)):
        if not isinstance(data, Source):
            raise TypeError(f"{name}: expected a cl.data.Dataset, got {describe(data)}; give one, or another of cl.sources.")
        first = torch.zeros(1, dtype=torch.int64, device=data.device)
        rows.append(data.gather(first))
        if "task" in rows[-1]:
            raise ValueError(f"{name}: has task labels of its own, but this stream sets them; give a dataset with task=None.")
    if train.device != test.device:
        raise ValueError(f"train, test: on different devices: {train.device} and {test.device}; move one with .to(device).")
    y, other_y, x, other_x = (row[name] for name in ("y", "x") for row in rows)
    if train.target != test.target or (train.target == "regression" and (y.dtype, y.shape) != (other_y.dtype, other_y.shape)):
        raise ValueError(
            f"train, test: targets differ: {_described(train, y)} and {_described(test, other_y)}; "
            "give both the same kind of targets."
        )
    if train.n_classes != test.n_classes:
        raise ValueError(
            f"train, test: n_classes differ: {train.n_classes} and {test.n_classes}; "
            "if the last class does not occur in one of them, give the number of classes: Dataset(x, y, n_classes=...)."
        )
    if x.shape != other_x.shape:
        raise ValueError(f"train, test: sample shapes differ: {list(x.shape[1:])} and {list(other_x.shape[1:])}.")
    if x.dtype != other_x.dtype:
        raise ValueError(f"train, test: dtypes of x differ: {x.dtype} and {other_x.dtype}; convert one with .to(dtype).")


def _described(data: Source, first: Tensor) -> str:
    """All values of a source in words, from those of its first row."""
    return describe(first.expand(len(data), *first.shape[1:]))

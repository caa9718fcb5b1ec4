"""A stream of the task labels that come with the rows: one experience for each."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from cl_func import tree
from cl_func.experiences import Benchmark, Experience, Stream, experience, present
from cl_func.sources import Dataset
from cl_func.streams.lazy import Lazy, check_pair
from cl_func.tree import describe


def split_by_task(train: Dataset, test: Dataset) -> Benchmark:
    """One experience for each task label of the rows, `Dataset.task`, 0..T-1, in their order; targets of any kind stay as they are.

    Experience i of `train` holds the rows of task i, and so does that of `test` if its rows have task labels too. If they have
    none, `test` is one experience of all of them, of task label 0, as in CORe50, whose test set is the same after each batch.
    `classes` are those that occur in the rows of the task, of train or of test. No data is copied.
    Raises TypeError for what is no dataset; ValueError for train without task labels, for a task in 0..T-1 without rows in either,
    and for datasets that differ in sample shape, dtype, kind of target, n_classes or device.

    >>> rows = Dataset(torch.eye(4), torch.tensor([0, 1, 2, 3]), task=torch.tensor([1, 0, 0, 1]))
    >>> bench = split_by_task(rows, rows)
    >>> bench.train[1].y, bench.train[1].task
    (tensor([0, 3]), tensor(1))
    """
    for name, data in (("train", train), ("test", test)):
        if not isinstance(data, Dataset):
            raise TypeError(f"{name}: expected a cl.data.Dataset, got {describe(data)}.")
    if train.task is None:
        raise ValueError("train: its rows have no task labels; give them, Dataset(x, y, task=...), or split by class.")
    plain = [tree.replace(data, task=None) for data in (train, test)]
    check_pair(*plain)
    n_tasks = 1 + int(max(data.task.max() for data in (train, test) if data.task is not None))
    sides = [_rows(name, data.task, n_tasks) for name, data in (("train", train), ("test", test)) if data.task is not None]
    occur = [[_classes(data, rows) for rows in side] for data, side in zip(plain, sides, strict=False)]
    classes = tuple(torch.stack(both).any(0) for both in zip(*occur, strict=True))
    streams = [Stream(_TaskRows(data, side, classes), n_tasks) for data, side in zip(plain, sides, strict=False)]
    if test.task is None:
        everything = torch.arange(len(test), device=test.y.device)
        streams.append(Stream(_TaskRows(plain[1], (everything,), (_classes(plain[1], everything),)), 1))
    return Benchmark(*streams)


@dataclasses.dataclass(frozen=True, eq=False)
class _TaskRows(Lazy):
    """Experience i is the rows of task i."""

    data: Dataset
    rows: tuple[Tensor, ...]  # one per experience: [n_i] int64
    classes: tuple[Tensor, ...]  # one per experience: [C] bool

    def view(self, index: int) -> Experience:
        return experience(self.data, self.rows[index], task=index, index=index, classes=self.classes[index])

    def source(self, index: int) -> Dataset:
        return self.data


def _rows(name: str, task: Tensor, n_tasks: int) -> tuple[Tensor, ...]:
    rows = tuple((task == i).nonzero().flatten() for i in range(n_tasks))
    absent = [i for i, own in enumerate(rows) if len(own) == 0]
    if absent:
        shown = ", ".join(map(str, absent[:5])) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        raise ValueError(
            f"{name}: no row of the tasks {shown}, out of {n_tasks}; number the tasks that do occur from 0, "
            "task.unique(return_inverse=True)[1]."
        )
    return rows


def _classes(data: Dataset, rows: Tensor) -> Tensor:
    """The classes that occur in some rows, [C] bool."""
    y = data.y[rows]
    return present(y, torch.ones(len(y), dtype=torch.bool, device=y.device), data.n_classes)

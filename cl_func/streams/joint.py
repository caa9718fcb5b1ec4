"""The cumulative stream: all data seen so far in every experience, the upper bound that methods are compared with."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.experiences import Benchmark, Dataset, Experience, Stream, experience
from cl_func.streams.lazy import Lazy, lazy


def cumulative(benchmark: Benchmark) -> Benchmark:
    """Train experience i holds the rows of the train experiences 0..i, in order; test and valid stay as they are.

    `classes` is the union of theirs and `task` the label of the last. Where task labels differ along the stream, the source of
    every experience carries the label of each row (`exp.tasks` reads it).
    Experiences that share one dataset go on sharing it. Where they do not (permuted, rotated), or where a row belongs to
    experiences of different task labels, the rows are copied into a new dataset each time an experience is asked for.
    Raises ValueError if the inputs of the experiences differ in shape or dtype (when such an experience is asked for).

    >>> from cl_func.data import digits
    >>> from cl_func.streams import split_by_class
    >>> bench = cumulative(split_by_class(*digits(), n_experiences=5))
    >>> bench.train[1].classes.nonzero().flatten().tolist()
    [0, 1, 2, 3]
    """
    checks.instance("benchmark", benchmark, Benchmark, "a Benchmark such as cl.streams.split_by_class(...)")
    parent = lazy(benchmark.train)
    labels: set[int] = set()
    for i in range(len(benchmark.train)):
        exp = parent.view(i)
        labels |= set(exp.tasks[exp.valid].unique().tolist())
    # Decided for the whole stream: experience 0 has the same tree as the others, and is compiled as they are.
    return dataclasses.replace(benchmark, train=Stream(_UpTo(parent, len(labels) > 1), len(benchmark.train)))


@dataclasses.dataclass(frozen=True, eq=False)
class _UpTo:
    """Experience i is the experiences 0..i of another stream in one."""

    parent: Lazy
    mixed: bool  # whether task labels differ along the stream

    def __call__(self, index: int) -> Experience:
        views = [self.parent.view(i) for i in range(index + 1)]
        rows = [exp.rows[exp.valid] for exp in views]
        tasks = torch.cat([exp.tasks[exp.valid] for exp in views]) if self.mixed else None
        first = self.parent.source(0)
        source, chosen = None, torch.cat(rows)
        if all(self.parent.source(i) is first for i in range(1, index + 1)):  # ends at the first that differs
            source = labelled(first, chosen, tasks)
        if source is None:
            source, chosen = self._copied(views, rows, tasks), torch.arange(len(chosen), device=chosen.device)
        classes = torch.stack([exp.classes for exp in views]).any(dim=0)
        return experience(source, chosen, task=int(views[-1].task), index=index, classes=classes)

    @property
    def ordered(self) -> bool:
        """Whether the order of the rows is part of the stream (`Lazy.ordered`)."""
        return self.parent.ordered

    def _copied(self, views: list[Experience], rows: list[Tensor], tasks: Tensor | None) -> Dataset:
        """A dataset of the chosen rows alone. The sources are made one after the other, never all at once."""
        y = torch.cat([exp.source.y[chosen] for exp, chosen in zip(views, rows, strict=True)])
        x = self.parent.source(0).x[rows[0]].new_empty(len(y), *views[0].source.x.shape[1:])
        start = 0
        for i, chosen in enumerate(rows):
            source = self.parent.source(i)
            if source.x.shape[1:] != x.shape[1:] or source.x.dtype != x.dtype:
                raise ValueError(
                    f"cumulative: the inputs of experience {i} are {tree.describe(source.x)}, which do not join with "
                    f"{x.dtype} samples of shape {list(x.shape[1:])} of experience 0."
                )
            x[start : start + len(chosen)] = source.x[chosen]
            start += len(chosen)
        return Dataset(x, y, tasks, n_classes=views[0].source.n_classes)


def labelled(source: Dataset, rows: Tensor, tasks: Tensor | None) -> Dataset | None:
    """The dataset with the task label of each of these rows; None where a row would need two labels."""
    if tasks is None or source.task is not None:
        return source
    labels = torch.zeros_like(source.y)
    labels[rows] = tasks
    return tree.replace(source, task=labels) if torch.equal(labels[rows], tasks) else None

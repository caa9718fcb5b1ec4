"""The cumulative stream: all data seen so far in every experience, the upper bound that methods are compared with."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.experiences import Benchmark, Experience, Stream, experience
from cl_func.sources import Dataset, Source
from cl_func.sources.held import InMemory, hold
from cl_func.sources.joined import join
from cl_func.sources.labels import TaskLabelled
from cl_func.sources.origin import concatenated, remember
from cl_func.sources.source import inner_sources, same
from cl_func.streams.lazy import Lazy, as_lazy


def cumulative(benchmark: Benchmark) -> Benchmark:
    """Train experience i holds the rows of the train experiences 0..i, in order; test and valid stay as they are.

    `classes` is the union of their classes and `task` the task label of the last. Where task labels differ along the stream, the
    source of every experience holds the label of each row (`exp.tasks` reads it).
    Experiences that share one dataset still share it, and those that are views of one (permuted, rotated) are joined as views. Only
    where they are neither (datasets one after the other, rows in memory), or where a row belongs to experiences with different task
    labels, are rows copied into a new dataset whenever an experience is asked for.
    Raises ValueError if the inputs of the experiences differ in shape or dtype (when such an experience is asked for).

    >>> from cl_func.data import digits
    >>> from cl_func.streams import split_by_class
    >>> bench = cumulative(split_by_class(*digits(), n_experiences=5))
    >>> bench.train[1].classes.nonzero().flatten().tolist()
    [0, 1, 2, 3]
    """
    checks.instance("benchmark", benchmark, Benchmark, "a Benchmark such as cl.streams.split_by_class(...)")
    parent, n = as_lazy(benchmark.train), len(benchmark.train)
    labels: set[int] = set()
    for i in range(n):
        exp = parent.view(i)
        # With that of the experience, which a copy without labels would give to its rows.
        labels |= {int(exp.task)} | set(exp.tasks[exp.valid].unique().tolist())
    # Decided for the whole stream, so that all experiences have one structure and share one compiled program.
    mixed = len(labels) > 1
    return dataclasses.replace(benchmark, train=Stream(_Cumulative(parent, _joined(parent, n), mixed, _made_anew(parent, n)), n))


def _made_anew(parent: Lazy, n: int) -> bool:
    """Whether the data of an experience are others whenever it is asked for, so that its rows cannot be known again."""
    views = [parent.view(i) for i in (0, n - 1, 0)]  # the last one may be kept for a while
    keys = [{owner.key for owner in exp.source.origin(exp.rows).owners} for exp in views]
    return keys[0] != keys[2]


def _joined(parent: Lazy, n: int) -> Source | None:
    """The source of all experiences: the one that they share, or the join of their views; None if they are not of one dataset."""
    first = parent.source(0)
    if all(same(parent.source(i), first) for i in range(1, n)):
        return first
    if _in_memory(first):
        return None  # of a join each row of a minibatch would be gathered with a copy of all that its view holds
    views = [first]
    for i in range(1, n):
        other = parent.source(i)
        try:
            join([first, other])
        except ValueError:
            return None
        views.append(other)
    return join(views)


def _in_memory(source: Source) -> bool:
    return isinstance(source, InMemory) or any(_in_memory(inner) for inner in inner_sources(source).values())


@dataclasses.dataclass(frozen=True, eq=False)
class _Cumulative:
    """Experience i joins the experiences 0..i of another stream."""

    parent: Lazy
    joined: Source | None  # of all experiences, whose rows follow each other if it has more than they
    mixed_tasks: bool  # whether task labels differ along the stream
    made_anew: bool  # whether the rows that it joins cannot be known again

    def __call__(self, index: int) -> Experience:
        views = [self.parent.view(i) for i in range(index + 1)]
        rows = [exp.rows[exp.valid] for exp in views]
        tasks = torch.cat([exp.tasks[exp.valid] for exp in views]) if self.mixed_tasks else None
        source, all_rows = None, torch.cat(rows)
        if self.joined is not None:
            n = len(views[0].source)
            if len(self.joined) > n:
                all_rows = torch.cat([kept + i * n for i, kept in enumerate(rows)])
            source = with_task_labels(self.joined, all_rows, tasks)
        if source is None:
            source, all_rows = self._copy(views, rows, tasks), torch.arange(len(all_rows), device=all_rows.device)
        classes = torch.stack([exp.classes for exp in views]).any(dim=0)
        return experience(source, all_rows, task=int(views[-1].task), index=index, classes=classes)

    @property
    def ordered(self) -> bool:
        """Whether the order of the rows is part of the stream (`Lazy.ordered`)."""
        return self.parent.ordered

    def _copy(self, views: list[Experience], rows: list[Tensor], tasks: Tensor | None) -> Source:
        """A new dataset of these rows, of each lane its own if they are held in memory.

        The sources are gathered one after the other, so that no two copies are in memory.
        """
        y = torch.cat([exp.source.gather_y(kept) for exp, kept in zip(views, rows, strict=True)])
        x = self.parent.source(0).gather_x(rows[0][:1])
        x = x.new_empty(len(y), *x.shape[1:])
        start = 0
        for i, kept in enumerate(rows):
            found = self.parent.source(i).gather_x(kept)
            if found.shape[1:] != x.shape[1:] or found.dtype != x.dtype:
                raise ValueError(
                    f"cumulative: the inputs of experience {i} are {tree.describe(found)}, which do not join with "
                    f"{x.dtype} samples of shape {list(x.shape[1:])} of experience 0."
                )
            x[start : start + len(kept)] = found
            start += len(kept)
        n_classes = views[0].source.n_classes
        made = hold(x, y, tasks, n_classes) if _in_memory(self.parent.source(0)) else Dataset(x, y, tasks, n_classes=n_classes)
        origin = concatenated([exp.source.origin(kept) for exp, kept in zip(views, rows, strict=True)])
        remember(made, origin._replace(known=origin.known and not self.made_anew))
        return made


def with_task_labels(source: Source, rows: Tensor, tasks: Tensor | None) -> Source | None:
    """The source with `tasks` [n] as the task labels of `rows` [n]; None if a row would need two labels."""
    if tasks is None or source.gather_task(rows[:1]) is not None:
        return source
    labels = torch.zeros(len(source), dtype=torch.int64, device=source.device)
    labels[rows] = tasks
    return TaskLabelled(source, labels) if torch.equal(labels[rows], tasks) else None

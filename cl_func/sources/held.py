"""Rows that are made once and held: of each lane its own.

    gather(i) = what the source gave for rows[i]

A source that computes its rows, such as `Generated`, does so in every step. Where steps are small that is most of their time, while
all rows of an experience at once are computed quickly. The rows of a `Dataset` are shared by all lanes, these are not: they take
memory for each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cl_func import checks
from cl_func.sources.origin import Origin, recalled, remember, rows_of
from cl_func.sources.source import Source, Target, target_of
from cl_func.sources.view import View, check_source
from cl_func.tree import describe, state, static


@state
class InMemory(Source):
    """The rows of a source as tensors that lanes have of their own; made by `in_memory`."""

    x: Tensor  # [n, ...] as the source gave them
    y: Tensor  # [n], [n, C] or [n, K]
    task: Tensor | None  # [n] int64, where rows have task labels of their own
    length: int = static()
    n_classes: int = static()
    kept: tuple[int | None, ...] = static()  # the dimensions of each tensor in one lane

    def __len__(self) -> int:
        return self.length

    @property
    def target(self) -> Target:
        """The kind of targets of the source."""
        return target_of(self.y)

    @property
    def ranks(self) -> list[int | None]:
        """All of them may have lanes."""
        return list(self.kept)

    def gather_x(self, rows: Tensor) -> Tensor:
        """The inputs of rows [n]."""
        return self.x[rows]

    def gather_y(self, rows: Tensor) -> Tensor:
        """The targets of rows [n]."""
        return self.y[rows]

    def gather_task(self, rows: Tensor) -> Tensor | None:
        """The task labels of rows [n], where they have some of their own."""
        return None if self.task is None else self.task[rows]

    def origin(self, rows: Tensor) -> Origin:
        """Where the rows were gathered from."""
        return recalled(self, rows) or rows_of(self, rows, known=False)


@state(kw_only=False)
class Chosen(View):
    """Some rows of a source, numbered 0, 1, ...: what `in_memory` holds of them, before any of it is gathered."""

    source: Source
    chosen: Tensor  # [n] int64

    def __post_init__(self) -> None:
        check_source(self.source)

    def __len__(self) -> int:
        return len(self.chosen)

    def gather_x(self, rows: Tensor) -> Tensor:
        """The inputs of rows [n]."""
        return self.source.gather_x(self.chosen[rows])

    def gather_y(self, rows: Tensor) -> Tensor:
        """The targets of rows [n]."""
        return self.source.gather_y(self.chosen[rows])

    def gather_task(self, rows: Tensor) -> Tensor | None:
        """The task labels of rows [n], where they have some of their own."""
        return self.source.gather_task(self.chosen[rows])

    def origin(self, rows: Tensor) -> Origin:
        """That of the rows that were chosen."""
        return self.source.origin(self.chosen[rows])


def in_memory(source: Source, rows: Tensor) -> InMemory:
    """Some rows [n] int64 of a source, gathered now: row i of the result is what the source gives for rows[i].

    Raises TypeError or ValueError for anything but a source and rows of it.

    >>> from cl_func import random
    >>> def sample(key, params):
    ...     x = random.normal(key, 3)
    ...     return x, x.sum()
    >>> from cl_func.sources import Generated
    >>> endless = Generated(sample, random.key(0), 10**12)
    >>> held = in_memory(endless, torch.tensor([10**9, 7]))
    >>> torch.equal(held.gather_x(torch.tensor([1])), endless.gather_x(torch.tensor([7])))
    True
    """
    checks.instance("source", source, Source, "a source such as a cl.Dataset")
    if not isinstance(rows, Tensor) or rows.dtype != torch.int64 or rows.ndim != 1 or rows.is_meta or not len(rows):
        raise TypeError(f"rows: expected an int64 tensor [n] of at least one row, got {describe(rows)}.")
    if int(rows.min()) < 0 or int(rows.max()) >= len(source):
        raise ValueError(f"rows: expected rows of the source, 0..{len(source) - 1}, got {int(rows.min())}..{int(rows.max())}.")
    found = source.gather(rows)
    held = hold(found["x"], found["y"], found.get("task"), source.n_classes)
    remember(held, source.origin(rows))
    return held


def hold(x: Tensor, y: Tensor, task: Tensor | None, n_classes: int) -> InMemory:
    """Rows that were gathered already, as a source."""
    kept = tuple(leaf.ndim for leaf in (x, y, task) if leaf is not None)  # in the order of the fields
    return InMemory(x=x, y=y, task=task, length=len(y), n_classes=n_classes, kept=kept)

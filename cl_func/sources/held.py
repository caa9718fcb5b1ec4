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
from cl_func.sources.source import Source, Target, target_of
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
    kept = tuple(leaf.ndim for leaf in found.values())  # in the order of the fields
    return InMemory(x=found["x"], y=found["y"], task=found.get("task"), length=len(rows), n_classes=source.n_classes, kept=kept)

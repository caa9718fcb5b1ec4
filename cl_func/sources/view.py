"""Views: what sources that change another one have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cl_func import checks
from cl_func.sources.origin import Origin, rows_of
from cl_func.sources.source import Source, Target


class View(Source):
    """A source that gives what another one gives, its field `source`, with some of it changed.

    A subclass is a `@cl.state` with the field `source`, its parameters, and the `gather_x`, `gather_y` or `gather_task` that it
    changes:

    >>> from cl_func import sources, tree
    >>> @tree.state(kw_only=False)
    ... class Brighter(sources.View):
    ...     source: sources.Source
    ...     by: Tensor = sources.per_lane(0)
    ...
    ...     def gather_x(self, rows):
    ...         return self.source.gather_x(rows) + self.by
    >>> data = sources.Dataset(torch.zeros(4, 2), torch.arange(4))
    >>> Brighter(data, torch.tensor(0.5)).gather_x(torch.tensor([1]))
    tensor([[0.5000, 0.5000]])
    """

    source: Source

    def __len__(self) -> int:
        return len(self.source)

    if not TYPE_CHECKING:  # to which it is an attribute, since a subclass may have it as a field

        @property
        def n_classes(self) -> int:
            """The number of classes C of the source."""
            return self.source.n_classes

    @property
    def target(self) -> Target:
        """The kind of targets of the source."""
        return self.source.target

    def gather_x(self, rows: Tensor) -> Tensor:
        """The inputs of the rows."""
        return self.source.gather_x(rows)

    def gather_y(self, rows: Tensor) -> Tensor:
        """The targets of the rows."""
        return self.source.gather_y(rows)

    def gather_task(self, rows: Tensor) -> Tensor | None:
        """The task labels of the rows, if they have their own."""
        return self.source.gather_task(rows)

    def origin(self, rows: Tensor) -> Origin:
        """That of the source, of which the rows are the same; not known of a view that has more or fewer."""
        return self.source.origin(rows) if len(self) == len(self.source) else rows_of(self, rows, known=False)

    @property
    def x(self) -> Tensor:
        """All inputs [N, ...]: those of the source if they are the same, else made anew at each access; steps gather rows."""
        own = type(self).gather_x is not View.gather_x
        return self.gather_x(all_rows(self)) if own else self.source.x  # type: ignore[attr-defined]

    @property
    def y(self) -> Tensor:
        """All targets, as x."""
        own = type(self).gather_y is not View.gather_y
        return self.gather_y(all_rows(self)) if own else self.source.y  # type: ignore[attr-defined]

    @property
    def task(self) -> Tensor | None:
        """All task labels, as x."""
        own = type(self).gather_task is not View.gather_task
        return self.gather_task(all_rows(self)) if own else self.source.task  # type: ignore[attr-defined]


def all_rows(source: Source) -> Tensor:
    """The numbers of all rows, [N] int64."""
    return torch.arange(len(source), device=source.device)


def check_source(value: object) -> Source:
    """Check the argument `source` of a view; TypeError otherwise."""
    found: Source = checks.instance("source", value, Source, "a cl.Dataset, or another source")
    return found


def one_row(source: Source) -> Tensor:
    """The inputs of the first row, [...], as they are stored: their shape and dtype are those of all rows."""
    return source.gather_x(torch.zeros(1, dtype=torch.int64, device=source.device))[0]

"""Several views of one source as one: the rows of all of them, without a copy.

gather_x(rows)[i] = views[rows[i] div N].gather_x(rows[i] mod N)        for views of N rows each
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.sources.origin import Origin
from cl_func.sources.source import Source, Target, stack
from cl_func.sources.view import View
from cl_func.tree import state, static

Gather = Literal["gather_x", "gather_y", "gather_task"]


@state
class Joined(Source):
    """The rows of several views of one source, N of each, one view after the other; made by `join`.

    The views differ in their parameters only, which are stacked; each row is gathered with the parameters of its view.
    """

    views: Source  # its parameters with a first axis, the views
    n_views: int = static()

    def __len__(self) -> int:
        return len(self.views) * self.n_views

    if not TYPE_CHECKING:  # to which it is an attribute, as in other sources

        @property
        def n_classes(self) -> int:
            """The number of classes C of the views."""
            return self.views.n_classes

    @property
    def target(self) -> Target:
        """The kind of targets of the views."""
        return self.views.target

    @property
    def ranks(self) -> list[int | None]:
        """As for any source; here parameters have one more dimension, the views."""
        return [None if rank is None else rank + 1 for rank in self.views.ranks]

    def gather_x(self, rows: Tensor) -> Tensor:
        """The inputs of the rows, each from its view."""
        return _gather(self.views, rows, "gather_x")

    def gather_y(self, rows: Tensor) -> Tensor:
        """The targets of the rows."""
        return _gather(self.views, rows, "gather_y")

    def gather_task(self, rows: Tensor) -> Tensor | None:
        """The task labels of the rows, if they have their own."""
        if self.views.gather_task(rows[:0]) is None:
            return None
        return _gather(self.views, rows, "gather_task")

    def origin(self, rows: Tensor) -> Origin:
        """That of the views: the same for all of them, unless each has rows of its own, drawn from its key."""
        n = len(self.views)
        found = self.views.origin(rows % n)
        drawn = [isinstance(owner.kept, Source) and any(rank is not None for rank in owner.kept.ranks) for owner in found.owners]
        own = torch.tensor(drawn, device=rows.device)[found.which]
        return found._replace(numbers=torch.where(own, found.numbers + rows // n * n, found.numbers))

    def read_ahead(self, rows: Tensor) -> None:
        """Begin to read rows [...] that will be gathered soon."""
        self.views.read_ahead(rows % len(self.views))


def join(sources: Sequence[Source]) -> Joined:
    """The rows of several sources that differ in their parameters only, such as permutations of one dataset, as one source.

    Row r of source i of N rows is row i * N + r. Raises ValueError, saying what differs, for other sources, and for none.
    """
    if not isinstance(sources, Sequence) or not sources:
        raise checks.type_error("sources", "a sequence of sources, at least one", sources)
    for source in sources:
        checks.instance("sources", source, Source, "sources, such as cl.sources.Permuted(data, order)")
    return Joined(views=stack(sources, "sources: they must be views of one source"), n_views=len(sources))


def _gather(views: Source, rows: Tensor, name: Gather) -> Tensor:
    """What a function of the views gives for each row, called with the parameters of the row's view."""
    if not len(rows):  # which vmap cannot do
        return _gather(views, rows.new_zeros(1), name)[:0]
    n = len(views)
    while isinstance(views, View) and getattr(type(views), name) is getattr(View, name):
        views = views.source  # its parameters do not change what is gathered
    leaves, structure = tree.flatten(views)
    own = [rank is not None for rank in views.ranks]
    if not any(own):
        found: Tensor = getattr(views, name)(rows % n)
        return found

    def one(row: Tensor, *leaves: Tensor) -> Tensor:
        gathered: Tensor = getattr(tree.unflatten(structure, leaves), name)(row[None])
        return gathered[0]

    view = rows // n
    each = [leaf[view] if mine else leaf for leaf, mine in zip(leaves, own, strict=True)]
    axes = (0, *(0 if mine else None for mine in own))
    return torch.func.vmap(one, in_dims=axes)(rows % n, *each)

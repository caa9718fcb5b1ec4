"""Other labels for the rows of a source: of their classes, or of their tasks."""

from __future__ import annotations

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.sources.source import Source
from cl_func.sources.view import View, check_source
from cl_func.tree import per_lane, state, static


@state(kw_only=False)
class Relabelled(View):
    """A source of class labels with the label labels[c] in place of c: `Relabelled(source, labels [C] int64)`.

    `n_classes` is that of the new labels, the largest plus one where it is not given. Raises TypeError or ValueError for a source
    of other targets and for labels of another shape or dtype or out of range.
    """

    source: Source
    labels: Tensor = per_lane(1)  # [C] int64, the new label of each class
    n_classes: int = static(default=0)

    def __post_init__(self) -> None:
        if check_source(self.source).target != "class":
            raise ValueError(f"source: expected class labels, to be replaced by others, its targets are of {self.source.target}.")
        checks.tensor("labels", self.labels, (self.source.n_classes,), torch.int64, like=tree.leaves(self.source)[0])
        checks.positive_int("n_classes", self.n_classes, least=0)
        low, high = int(self.labels.min()), int(self.labels.max())
        n_classes = self.n_classes or high + 1
        if low < 0 or high >= n_classes:
            raise ValueError(f"labels: expected labels in 0..n_classes-1 = 0..{n_classes - 1}, got labels from {low} to {high}.")
        object.__setattr__(self, "n_classes", n_classes)

    def gather_y(self, rows: Tensor) -> Tensor:
        """The new labels [n] of the rows."""
        return self.labels[self.source.gather_y(rows)]


@state(kw_only=False)
class TaskLabelled(View):
    """A source whose rows have task labels of their own, `TaskLabelled(source, labels [N] int64)`; earlier ones do not count.

    Raises TypeError or ValueError for labels of another shape or dtype, or below 0.
    """

    source: Source
    labels: Tensor = per_lane(1)  # [N] int64

    def __post_init__(self) -> None:
        n = len(check_source(self.source))
        checks.tensor("labels", self.labels, (n,), torch.int64, like=tree.leaves(self.source)[0])
        if int(self.labels.min()) < 0:
            raise ValueError(f"labels: task labels are at least 0, got {int(self.labels.min())}; number the tasks from 0.")

    def gather_task(self, rows: Tensor) -> Tensor:
        """The task labels [n] of the rows."""
        return self.labels[rows]

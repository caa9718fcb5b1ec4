"""Rows that are drawn when they are asked for: endless streams without storage.

    (x_r, y_r) = sample(k_r, params),  k_r the child of the source's key for row r        (cl.random.children)

A row is a pure function of its number, so it is the same whenever it comes, in any minibatch and any lane with the same key.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cl_func import checks, random
from cl_func.sources.functions import call, comparable
from cl_func.sources.mapped import ranks_of
from cl_func.sources.source import Source, Target, target_of
from cl_func.tree import PyTree, describe, per_lane, state, static


@state(kw_only=False)
class Generated(Source):
    """`length` rows drawn by `sample(key, params) -> (x [...], y)`, one row at a time: `Generated(sample, key, length, params)`.

    sample: draws one row from its key: x [...] of at least one axis, floating or int64, and y, () int64 for class labels, [C] bool
        for several, or () or [K] floating. Pure; it is vmapped over rows.
    key: () int64; lanes may have their own. length: the number of rows, which costs nothing.
    params: a tree of tensors, or None; they may differ between lanes.
    n_classes: for class labels the number of classes, which must be given.

    Raises TypeError or ValueError for a sample that returns anything else, as the first row shows.

    >>> def sample(key, params):
    ...     x = random.normal(key, 3)
    ...     return x, params @ x
    >>> endless = Generated(sample, random.key(0), 10**12, torch.ones(3))
    >>> endless.gather_x(torch.tensor([7, 10**9])).shape
    torch.Size([2, 3])
    """

    sample: Callable[[Tensor, PyTree], tuple[Tensor, Tensor]] = static()
    key: Tensor = per_lane(0)  # () int64
    length: int = static()
    params: PyTree | None = None  # tensors, with a first axis more where lanes have their own
    n_classes: int = static(default=0)
    kind: Target = static(default="regression", init=False)  # of the targets; set when it is made, as the next
    param_ranks: tuple[int, ...] = static(default=(), init=False)

    def __post_init__(self) -> None:
        checks.function("sample", self.sample, "a function (key, params) -> (x, y) that draws one row")
        checks.key("key", self.key)
        checks.positive_int("length", self.length)
        checks.positive_int("n_classes", self.n_classes, least=0)
        object.__setattr__(self, "sample", comparable(self.sample))
        object.__setattr__(self, "param_ranks", ranks_of("params", self.params))
        out = call("sample", self.sample, random.fold_in(self.key, 0), self.params)
        if not isinstance(out, tuple) or len(out) != 2 or not all(isinstance(part, Tensor) for part in out):
            raise TypeError(f"sample: expected it to return two tensors, (x, y), got {describe(out)}.")
        x, y = out
        if not (x.is_floating_point() or x.dtype in (torch.uint8, torch.int64)) or x.ndim < 1:
            raise TypeError(f"sample: expected x of one row, [...], floating, uint8 or int64, got {describe(x)}.")
        target = target_of(y)
        if y.ndim not in {"class": (0,), "multilabel": (1,), "regression": (0, 1)}[target]:
            raise ValueError(f"sample: expected y of one row, () int64, [C] bool, or () or [K] floating, got {describe(y)}.")
        n_classes = {"class": self.n_classes, "multilabel": y.numel(), "regression": 0}[target]
        if target == "class" and not int(y) < n_classes:
            raise ValueError(f"n_classes: expected the number of classes of the labels, got {n_classes}; a label is {int(y)}.")
        if self.n_classes not in (0, n_classes):
            raise ValueError(f"n_classes: the targets {describe(y)} of a sample have {n_classes} classes, got {self.n_classes}.")
        object.__setattr__(self, "n_classes", n_classes)
        object.__setattr__(self, "kind", target)

    def __len__(self) -> int:
        return self.length

    @property
    def target(self) -> Target:
        """The kind of targets that are drawn."""
        return self.kind

    @property
    def ranks(self) -> list[int | None]:
        """As for any source; the params have those that they were given with."""
        return [0, *self.param_ranks]

    def gather_x(self, rows: Tensor) -> Tensor:
        """The inputs of the rows, drawn."""
        return self._draw(rows)[0]

    def gather(self, rows: Tensor) -> dict[str, Tensor]:
        """Both, drawn once."""
        x, y = self._draw(rows)
        return {"x": x, "y": y}

    def gather_y(self, rows: Tensor) -> Tensor:
        """The targets of the rows, drawn."""
        return self._draw(rows)[1]

    def _draw(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        if not len(rows):  # which vmap cannot do
            x, y = self._draw(rows.new_zeros(1))
            return x[:0], y[:0]
        keys = random.children(self.key, rows)
        if self.params is None:
            return torch.func.vmap(self._of_key)(keys)
        return torch.func.vmap(self.sample, in_dims=(0, None))(keys, self.params)

    def _of_key(self, key: Tensor) -> tuple[Tensor, Tensor]:
        return self.sample(key, None)

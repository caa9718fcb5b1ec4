"""A function of the inputs of another source, evaluated within the step.

gather_x(rows) = function(x of the rows, params)        x as a model sees it: uint8 images as floats in [0, 1]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.sources.functions import call, comparable
from cl_func.sources.source import Source, as_float
from cl_func.sources.view import View, check_source
from cl_func.tree import PyTree, describe, state, static


@state(kw_only=False)
class Mapped(View):
    """A source with `function(x)` in place of x, or `function(x, params)` if there are any: `Mapped(source, function, params)`.

    function: takes inputs [n, ...], floating or tokens, and returns as many, floating or int64, of any shape; pure, each row by
        itself, with draws from keys among the params only.
    params: a tree of tensors, which may differ between lanes.

    Raises TypeError or ValueError for a function that returns anything else, or whose result for a row depends on the others, as
    the first two rows show.

    >>> from cl_func.sources import Dataset
    >>> data = Dataset(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1]))
    >>> Mapped(data, torch.mul, torch.tensor(10.0)).gather_x(torch.tensor([1]))
    tensor([[20.]])
    """

    source: Source
    function: Callable[..., Tensor] = static()
    params: PyTree | None = None  # tensors, with a first axis more where lanes have their own
    param_ranks: tuple[int, ...] = static(default=(), init=False)  # set when it is made

    def __post_init__(self) -> None:
        check_source(self.source)
        checks.function("function", self.function, "a function of inputs [n, ...], or of inputs and params")
        object.__setattr__(self, "function", comparable(self.function))
        object.__setattr__(self, "param_ranks", ranks_of("params", self.params))
        if self.params is not None:
            device = self.source.device
            wrong = next((path for path, leaf in tree.items(self.params) if leaf.device != device), None)
            if wrong is not None:
                raise ValueError(f"params: {wrong!r} is not on {device}, as the source is; move it with .to(device).")
        rows = torch.arange(min(2, len(self.source)), device=self.source.device)
        both = _check_inputs(self._first(rows), len(rows))
        for row in range(len(rows)):
            alone = _check_inputs(self._first(rows[row : row + 1]), 1)
            if alone.shape[1:] != both.shape[1:] or not torch.allclose(alone[0], both[row], rtol=1e-4, atol=1e-5, equal_nan=True):
                raise ValueError(
                    f"function: what it gives for a row depends on the other rows, as row {row} alone and with another shows; "
                    "map each row by itself, with constants such as a mean among the params."
                )

    @property
    def ranks(self) -> list[int | None]:
        """As for any source; the params have those that they were given with."""
        return [*self.source.ranks, *self.param_ranks]

    def gather_x(self, rows: Tensor) -> Tensor:
        """The function of the inputs of the rows."""
        x = as_float(self.source.gather_x(rows))
        return self.function(x) if self.params is None else self.function(x, self.params)

    def _first(self, rows: Tensor) -> Any:
        x = as_float(self.source.gather_x(rows))
        return call("function", self.function, x) if self.params is None else call("function", self.function, x, self.params)


def ranks_of(name: str, params: PyTree | None) -> tuple[int, ...]:
    """The number of dimensions of each leaf of a source's parameters; TypeError for a leaf that is no tensor."""
    return () if params is None else tuple(leaf.ndim for leaf in tree.leaves(checks.tensors(name, params)))


def _check_inputs(x: object, n: int) -> Tensor:
    if not isinstance(x, Tensor) or not (x.is_floating_point() or x.dtype == torch.int64) or x.ndim < 2 or len(x) != n:
        raise TypeError(
            f"function: expected it to return inputs [n, ...], floating or int64, for n = {n} rows, got {describe(x)}; "
            "give a function of all n rows, and of its params."
        )
    return x

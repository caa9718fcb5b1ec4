"""The features of another source in another order: permuted pixels (Goodfellow et al., 2013, arXiv:1312.6211).

gather_x(rows)[i, j] = source.gather_x(rows)[i, order[j]]        over the flattened features j of a row
"""

from __future__ import annotations

import torch
from torch import Tensor

from cl_func import checks
from cl_func.sources.source import Source
from cl_func.sources.view import View, check_source, one_row
from cl_func.tree import describe, per_lane, state


@state(kw_only=False)
class Permuted(View):
    """A source with the flattened features of each row in the order [D] int64, a permutation of 0..D-1; x keeps shape and dtype.

    Raises TypeError or ValueError for an order that is no permutation of the D features, or is on another device.

    >>> import torch
    >>> from cl_func.sources import Dataset
    >>> data = Dataset(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([0]))
    >>> Permuted(data, torch.tensor([2, 0, 1])).gather_x(torch.tensor([0]))
    tensor([[3., 1., 2.]])
    """

    source: Source
    order: Tensor = per_lane(1)  # [D] int64

    def __post_init__(self) -> None:
        row = one_row(check_source(self.source))
        checks.tensor("order", self.order, (row.numel(),), torch.int64, like=row)
        if not torch.equal(self.order.sort().values, torch.arange(row.numel(), device=row.device)):
            raise ValueError(
                f"order: expected a permutation of the {row.numel()} features of a row, 0..{row.numel() - 1}, "
                f"got {describe(self.order)} with other values."
            )

    def gather_x(self, rows: Tensor) -> Tensor:
        """The inputs of the rows, each with its features in the order."""
        x = self.source.gather_x(rows)
        return x.flatten(1).index_select(1, self.order).reshape(x.shape)

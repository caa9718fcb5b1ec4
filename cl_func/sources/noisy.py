"""The inputs of another source with Gaussian noise, drawn for each row from its number, so that a row always has the same noise.

gather_x(rows)[i] = source.gather_x(rows)[i] + std e_i,        e_i ~ N(0, 1), drawn from fold_in(key, rows[i])
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random
from cl_func.sources.source import Source
from cl_func.sources.view import View, check_source, one_row
from cl_func.tree import describe, per_lane, state


@state(kw_only=False)
class Noisy(View):
    """A source with noise of the standard deviation `std`, () floating, on its inputs, drawn from the key, () int64.

    Floating inputs may leave the range that they were in. Of uint8 images std is in units of the whole range, 0..255; values are
    rounded and held within it. Shape and dtype stay. Raises TypeError for tokens, TypeError or ValueError for another key or std.

    >>> import torch
    >>> from cl_func.sources import Dataset
    >>> data = Dataset(torch.zeros(1000, 3), torch.zeros(1000, dtype=torch.int64))
    >>> noisy = Noisy(data, random.key(0), torch.tensor(0.5))
    >>> round(float(noisy.x.std()), 2)
    0.5
    """

    source: Source
    key: Tensor = per_lane(0)  # () int64
    std: Tensor = per_lane(0)  # () floating, at least 0

    def __post_init__(self) -> None:
        row = one_row(check_source(self.source))
        check_no_tokens("source", row)
        checks.key("key", self.key)
        deviation: Any = checks.tensor("std", self.std, (), like=row)
        checks.number("std", float(deviation), 0, ends="[)")

    def gather_x(self, rows: Tensor) -> Tensor:
        """The inputs of the rows, with their noise."""
        x = self.source.gather_x(rows)
        if not len(rows):  # which vmap cannot do
            return x
        dtype = x.dtype if x.is_floating_point() else torch.float32
        keys = random.children(self.key, rows)
        noise = torch.func.vmap(lambda key: random.normal(key, tuple(x.shape[1:]), dtype))(keys)
        if x.dtype == torch.uint8:
            return (x + 255 * self.std * noise).round().clamp(0, 255).to(torch.uint8)
        return (x + self.std * noise).to(dtype)


def check_no_tokens(name: str, row: Tensor) -> None:
    """Check that noise can be added to an input [...]; TypeError otherwise."""
    if row.dtype == torch.int64:
        raise TypeError(
            f"{name}: expected inputs that noise can be added to, floating or uint8, got tokens, {describe(row)} a row."
        )

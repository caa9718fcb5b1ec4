"""Ties of numbers that are rounded: what is equal before it is rounded is made equal again, as rank tests need it."""

from __future__ import annotations

import torch
from torch import Tensor


def tied(values: Tensor, rounding: Tensor) -> Tensor:
    """The values [n] float64, where those that lie within their rounding [n] of each other are made equal.

    Neighbours that differ by no more than the sum of how far each may be off are taken for one number, the least of them.

    >>> tied(torch.tensor([0.3, 0.1 + 0.2, 0.4]).double(), torch.full((3,), 1e-7).double()).unique().numel()
    2
    """
    order = values.argsort(stable=True)
    ordered, off = values[order], rounding[order]
    begins = torch.ones_like(order, dtype=torch.bool)
    begins[1:] = ordered.diff() > off[1:] + off[:-1]
    return torch.empty_like(values).index_copy(0, order, ordered[begins][begins.cumsum(0) - 1])


def tied_blocks(values: Tensor, rounding: Tensor) -> Tensor:
    """The values [k, N] float64, of which those of each of the N blocks are made equal that lie within their rounding [k, N]."""
    blocks = [tied(*block) for block in zip(values.unbind(1), rounding.unbind(1), strict=True)]
    return torch.stack(blocks, 1) if blocks else values

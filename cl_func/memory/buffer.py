"""The rows of a memory: allocated once, found by index, written n at a time.

Writing vmaps and compiles, and takes time in proportion to the n rows, not to the capacity.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.checks import positive_int
from cl_func.torch_private import is_eager_cpu
from cl_func.tree import PyTree, describe

LAST = torch.iinfo(torch.int64).max  # as a sort key: after all others


def allocate(capacity: int, sample: PyTree) -> PyTree:
    """Zeros for `capacity` rows like `sample`, a tree of tensors, each with the shape and dtype of one row.

    Raises ValueError for a capacity below 1 or a sample without tensors, TypeError for a capacity that is not an integer.
    """
    positive_int("capacity", capacity)
    leaves = tree.leaves(sample)
    if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise ValueError(f"sample: expected a tree of tensors, one row of what the memory stores, got {describe(sample)}.")
    return tree.map(lambda row: row.new_zeros((capacity, *row.shape)), sample)


def fit(rows: PyTree, data: PyTree, name: str = "rows", n: int | None = None) -> PyTree:
    """Bring rows [n, ...] into the shape of a memory's leaves [capacity, ...], flattened or not; the dtypes must agree.

    Raises ValueError if the structure, a shape or a dtype differs, or if there are not `n` rows.
    """

    def fit_leaf(row: Tensor, stored: Tensor) -> Tensor:
        if not isinstance(row, Tensor) or row.ndim == 0 or row.device != stored.device:
            raise ValueError(f"{name}: expected tensors [n, ...] on {stored.device}, got {describe(row)}; move them there.")
        if not same_values(row.shape[1:], stored.shape[1:]) or row.dtype != stored.dtype:
            raise ValueError(
                f"{name}: the memory stores {describe(stored)}, rows come as {describe(row)}; "
                "allocate it for rows of this shape and dtype, or convert the data."
            )
        if n is not None and row.shape[0] != n:
            raise ValueError(f"{name}: expected {n} rows, one for each of valid, got {describe(row)}.")
        return row if row.shape[1:] == stored.shape[1:] else row.reshape(row.shape[0], *stored.shape[1:])

    if type(rows) is type(data) is dict and rows.keys() == data.keys():
        pairs = [(rows[field], stored) for field, stored in data.items()]
        if all(isinstance(row, Tensor) and isinstance(stored, Tensor) for row, stored in pairs):  # in a fraction of the time
            return {field: fit_leaf(*pair) for field, pair in zip(data, pairs, strict=True)}
    if tree.flatten(rows)[1] != tree.flatten(data)[1]:
        raise ValueError(f"{name}: the memory stores {describe(data)}, got {describe(rows)}; give the same fields.")
    return tree.map(fit_leaf, rows, data)


def same_values(shape: torch.Size, other: torch.Size) -> bool:
    """Whether rows of one shape are those of another, as they are or flattened.

    Other shapes of as many values hold other rows: images of another layout or orientation, sheared. Axes of length 1 move nothing.
    """
    own, others = ([size for size in sizes if size != 1] for sizes in (shape, other))
    return own == others or (min(len(own), len(others)) < 2 and shape.numel() == other.numel())


def check_add(memory: Any, kind: type, made_by: str, key: Tensor, rows: PyTree, valid: Tensor) -> PyTree:
    """Check the arguments that every `add` has; returns the rows in the shape of the memory's leaves.

    Raises TypeError or ValueError that names the argument.
    """
    held = checks.instance("memory", memory, kind, f"a {kind.__name__} made by {made_by}")
    like = tree.leaves(held.data)[0]
    checks.tensor("key", key, (), torch.int64, like=like)
    checks.tensor("valid", valid, dtype=torch.bool, like=like)
    if valid.ndim != 1:
        raise checks.type_error("valid", "bool[n], one for each row", valid)
    return fit(rows, held.data, n=valid.shape[0])


def write(data: PyTree, rows: PyTree, index: Tensor, wins: Tensor) -> PyTree:
    """The data [capacity, ...] with row i of `rows` [n, ...] at index[i] wherever wins[i], [n] bool; those indices must differ.

    The other rows are not written, whatever their index.
    """
    if is_eager_cpu(wins) and not wins.any():
        return data  # a full reservoir accepts no row of most minibatches; writing would copy all of it
    # Two writes to one index have no defined order. So each row that does not win repeats the write of the last row that does:
    # equal values, whatever the order. If no row wins, the memory's first row is written over itself.
    positions = torch.arange(index.shape[0], device=index.device)
    last = torch.where(wins, positions, -1).amax()  # not argmax: compiled, it gives n and more where all are equal (torch 2.13)
    any_wins = last >= 0
    writer = torch.where(wins, positions, last.clamp(min=0))
    index = torch.where(any_wins, index[writer], torch.zeros_like(index))

    def write_leaf(stored: Tensor, row: Tensor) -> Tensor:
        keep = any_wins.reshape((1,) * row.ndim)
        return stored.index_put((index,), torch.where(keep, row[writer], stored[:1]))

    return tree.map(write_leaf, data, rows)


def flatnonzero(mask: Tensor) -> Tensor:
    """The indices where a mask [m] bool holds, in ascending order, padded with m: [m + 1] int64.

    Like nonzero, but of a fixed shape. (searchsorted would be shorter, but under vmap it warns about its own copies.)
    """
    m = mask.shape[0]
    position = torch.where(mask, torch.cumsum(mask, 0) - 1, m + 1)  # indices outside the mask go to a position that is cut off
    return torch.full((m + 2,), m, device=mask.device).scatter(0, position, torch.arange(m, device=mask.device))[:-1]


def shuffle(key: Tensor, valid: Tensor) -> Tensor:
    """The indices of n rows in a random order, the valid [n] bool ones first: [n] int64.

    Each row draws its own sort key, so padding does not change the order of the others.
    """
    sort_keys = torch.where(valid, random.bits(key, valid.shape[0]) >> 1, LAST)
    return torch.argsort(sort_keys, stable=True)


def overwritten(index: Tensor, accepted: Tensor, capacity: int) -> Tensor:
    """Which rows [n] bool a later accepted row of the same insertion replaces."""
    n = index.shape[0]
    if n <= 64:  # comparing pairs is cheaper than a table of the capacity, and needs no scatter
        same = (index[:, None] == index[None, :]) & accepted[None, :]
        return torch.triu(same, diagonal=1).any(1)
    position = torch.arange(n, device=index.device)
    target = torch.where(accepted, index, capacity)
    last = torch.full((capacity + 1,), -1, device=index.device).scatter_reduce(0, target, position, "amax")
    return last[target] > position

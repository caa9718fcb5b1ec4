"""Drawing rows from any memory, for `losses.with_replay(loss, n, draw=...)`: `draw(memory, key, n) -> (rows [n, ...], valid [n])`.

Rows that are not occupied are never drawn: while fewer than n rows are occupied only as many of those drawn are valid, and from an
empty memory none is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.memory.buffer import LAST, flatnonzero
from cl_func.memory.kinds import Memory, Packed
from cl_func.tree import PyTree


def _check(key: Any, n: Any, like: Tensor) -> None:
    checks.tensor("key", key, (), torch.int64, like=like)
    checks.positive_int("n", n)


def _take(memory: Memory, index: Tensor, n_occupied: Tensor) -> tuple[PyTree, Tensor]:
    """The rows at an index [n], and which of them are valid: as many as are occupied."""
    valid = torch.arange(index.shape[0], device=index.device) < n_occupied
    return tree.map(lambda stored: stored[index], memory.data), valid


def uniform(memory: Memory, key: Tensor, n: int) -> tuple[PyTree, Tensor]:
    """n rows drawn uniformly with replacement from the occupied ones."""
    if isinstance(memory, Packed):
        n_filled = memory.filled
        _check(key, n, n_filled)
        return _take(memory, random.randint(key, n, 0, n_filled), n_filled)
    occupied = checks.occupied("memory", memory)
    _check(key, n, occupied)
    n_occupied = occupied.sum()
    position = random.randint(key, n, 0, n_occupied)
    return _take(memory, flatnonzero(occupied)[position].clamp(max=occupied.shape[0] - 1), n_occupied)


def distinct(memory: Memory, key: Tensor, n: int) -> tuple[PyTree, Tensor]:
    """n different rows drawn uniformly (without replacement) from the occupied ones; ValueError if n is above the capacity."""
    occupied = checks.occupied("memory", memory)
    _check(key, n, occupied)
    if n > occupied.shape[0]:
        raise ValueError(f"n: {n} different rows were asked of a memory of {occupied.shape[0]}; draw fewer, or with replacement.")
    sort_keys = random.bits(key, occupied.shape[0]) >> 1
    order = torch.argsort(torch.where(occupied, sort_keys, LAST), stable=True)
    return _take(memory, order[:n], occupied.sum())


def class_balanced(memory: Memory, key: Tensor, n: int) -> tuple[PyTree, Tensor]:
    """n rows drawn with replacement: first a class, uniformly among those in the memory, then one of its rows.

    The memory must store the labels, as y.
    """
    occupied = checks.occupied("memory", memory)
    _check(key, n, occupied)
    n_occupied = occupied.sum()
    class_key, row_key = random.split(key)
    label = torch.where(occupied, memory.data["y"], LAST)
    by_class = torch.argsort(label, stable=True)
    label = label[by_class]
    starts_class = torch.cat([label[:1] < LAST, (label[1:] != label[:-1]) & (label[1:] < LAST)])
    drawn_class = random.randint(class_key, n, 0, starts_class.sum())
    starts = flatnonzero(starts_class)
    start, end = starts[drawn_class], starts[drawn_class + 1].clamp(max=n_occupied)
    index = by_class[random.randint(row_key, n, start, end).clamp(max=occupied.shape[0] - 1)]
    return _take(memory, index, n_occupied)

"""Drawing rows from any memory, for `losses.with_replay(loss, n, draw=...)`: `draw(memory, key, n) -> (rows [n, ...], valid [n])`.

A memory is whatever has `data`, a tree of [capacity, ...], and `occupied`, [capacity] bool; rows that are not occupied are never
drawn. While fewer than n rows are occupied, only as many of those drawn are valid; from an empty memory none is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.memory import places, reservoir
from cl_func.memory.reservoir import Reservoir
from cl_func.tree import PyTree

LAST = torch.iinfo(torch.int64).max


def _rows(memory: Any, place: Tensor) -> tuple[PyTree, Tensor]:
    valid = torch.arange(place.shape[0], device=place.device) < memory.occupied.sum()
    return tree.map(lambda slot: slot[place], memory.data), valid


def _check(memory: Any, key: Tensor, n: int) -> Tensor:
    """Which rows are occupied, [capacity] bool, after a look at the arguments."""
    occupied = checks.occupied("memory", memory)
    checks.tensor("key", key, (), torch.int64, like=occupied)
    checks.positive_int("n", n)
    return occupied


def uniform(memory: Any, key: Tensor, n: int) -> tuple[PyTree, Tensor]:
    """n rows drawn uniformly with replacement from the occupied ones."""
    if isinstance(memory, Reservoir):
        return reservoir.draw(memory, key, n)  # the same, but its filled rows come first and need not be looked for
    occupied = _check(memory, key, n)
    turn = random.randint(key, n, 0, occupied.sum())
    return _rows(memory, places.where(occupied)[turn].clamp(max=occupied.shape[0] - 1))


def distinct(memory: Any, key: Tensor, n: int) -> tuple[PyTree, Tensor]:
    """n different rows drawn uniformly (without replacement) from the occupied ones; ValueError if n is above the capacity."""
    occupied = _check(memory, key, n)
    if n > occupied.shape[0]:
        raise ValueError(f"n: {n} different rows were asked of a memory of {occupied.shape[0]}; draw fewer, or with replacement.")
    words = random.bits(key, occupied.shape[0]) >> 1
    return _rows(memory, torch.argsort(torch.where(occupied, words, LAST), stable=True)[:n])


def class_balanced(memory: Any, key: Tensor, n: int) -> tuple[PyTree, Tensor]:
    """n rows drawn with replacement, the class first, uniformly among those in the memory, then a row of it; rows need y."""
    _check(memory, key, n)
    occupied, label = memory.occupied, memory.data["y"]
    which_class, which_row = random.split(key)
    label = torch.where(occupied, label, LAST)
    by_class = torch.argsort(label, stable=True)
    label = label[by_class]
    starts = torch.cat([label[:1] < LAST, (label[1:] != label[:-1]) & (label[1:] < LAST)])
    turn = random.randint(which_class, n, 0, starts.sum())
    start = places.where(starts)
    first, end = start[turn], start[turn + 1].clamp(max=occupied.sum())
    return _rows(memory, by_class[random.randint(which_row, n, first, end).clamp(max=occupied.shape[0] - 1)])

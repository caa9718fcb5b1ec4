"""The places of a memory: allocated once, found free, written n at a time.

Writing vmaps and compiles, and costs n rows, not the whole memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cl_func import random, tree
from cl_func.checks import positive_int
from cl_func.tree import PyTree, describe


def allocate(capacity: int, sample: PyTree) -> PyTree:
    """Zeros for `capacity` rows like `sample`, a tree of tensors, each the shape and dtype of one row.

    Raises ValueError for a capacity below 1 or a sample without tensors, TypeError for a capacity that is no integer.
    """
    positive_int("capacity", capacity)
    leaves = tree.leaves(sample)
    if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise ValueError(f"sample: expected a tree of tensors, one row of what the memory stores, got {describe(sample)}.")
    return tree.map(lambda row: row.new_zeros((capacity, *row.shape)), sample)


def write(data: PyTree, rows: PyTree, place: Tensor, wins: Tensor) -> PyTree:
    """The data [capacity, ...] with row i of `rows` [n, ...] at place[i] wherever wins[i], [n] bool; those places must differ.

    Nothing is written for the other rows, whatever their place.
    """
    if tree._is_eager_cpu(wins) and not wins.any():
        return data  # what a full reservoir does with most minibatches; else all of it is copied
    # Writing twice to one place has no defined order. So each row that does not win writes what the last row that wins writes, at
    # its place: equal values, any order. With no such row at all, the memory's first row is written over itself.
    turns = torch.arange(place.shape[0], device=place.device)
    last = torch.where(wins, turns, -1).amax()  # not argmax: compiled, it gives n and more where all are equal (torch 2.13)
    any_wins = last >= 0
    writer = torch.where(wins, turns, last.clamp(min=0))
    place = torch.where(any_wins, place[writer], torch.zeros_like(place))

    def write_leaf(slot: Tensor, row: Tensor) -> Tensor:
        keep = any_wins.reshape((1,) * row.ndim)
        return slot.index_put((place,), torch.where(keep, row[writer], slot[:1]))

    return tree.map(write_leaf, data, rows)


def where(mask: Tensor) -> Tensor:
    """The places where a mask [m] bool holds, in ascending order, padded by m: [m + 1] int64.

    As nonzero, but of a fixed shape. (By searchsorted it would be shorter, but under vmap that warns of its own copies.)
    """
    m = mask.shape[0]
    turn = torch.where(mask, torch.cumsum(mask, 0) - 1, m + 1)  # what is not in the mask goes to a place that is cut off
    return torch.full((m + 2,), m, device=mask.device).scatter(0, turn, torch.arange(m, device=mask.device))[:-1]


def shuffled(key: Tensor, valid: Tensor) -> Tensor:
    """The numbers of n rows with the valid [n] bool ones first, in a random order: [n] int64.

    Each row draws its own word, so that padding does not change the order of the others.
    """
    words = torch.where(valid, random.bits(key, valid.shape[0]) >> 1, torch.iinfo(torch.int64).max)
    return torch.argsort(words, stable=True)


def overwritten(place: Tensor, accepted: Tensor, capacity: int) -> Tensor:
    """Which rows a later accepted row of the same insertion replaces [n] bool."""
    n = place.shape[0]
    if n <= 64:  # pairs are cheaper than a table of the capacity, and need no scatter
        same = (place[:, None] == place[None, :]) & accepted[None, :]
        return torch.triu(same, diagonal=1).any(1)
    turn = torch.arange(n, device=place.device)
    target = torch.where(accepted, place, capacity)
    last = torch.full((capacity + 1,), -1, device=place.device).scatter_reduce(0, target, turn, "amax")
    return last[target] > turn

"""Reservoir sampling: a memory that holds a uniform sample of everything offered so far (Vitter 1985, Algorithm R).

The t-th row offered (t = 1, 2, ...) goes to place t - 1 while there is room; afterwards it draws a place uniformly from 0..t-1
and replaces what is there if the place exists. At any time every row offered has been kept with probability capacity / t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.core import Update, positive
from cl_func.experience import Experience
from cl_func.memory import replay
from cl_func.tree import PyTree, describe, state


@state
class Reservoir:
    """A replay memory of fixed capacity. The first `min(seen, capacity)` rows are filled, in no particular order."""

    data: PyTree  # leaves [capacity, ...]; by default x, y and task
    seen: Tensor  # () int64, rows offered so far

    @property
    def capacity(self) -> int:
        """How many rows fit in."""
        return tree.leaves(self.data)[0].shape[0]

    @property
    def occupied(self) -> Tensor:
        """Which rows are filled, [capacity] bool."""
        return torch.arange(self.capacity, device=self.seen.device) < self.filled

    @property
    def filled(self) -> Tensor:
        """How many rows are filled, () int64."""
        return self.seen.clamp(max=self.capacity)


def init(capacity: int, sample: PyTree) -> Reservoir:
    """An empty reservoir for rows like `sample`: a tree of tensors, each the shape and dtype of one row.

    `cl.memory.sample(model)` gives the usual x, y, task. Raises ValueError for a capacity below 1 or a sample without tensors.
    """
    positive("capacity", capacity)
    leaves = tree.leaves(sample)
    if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise ValueError(f"sample: expected a tree of tensors, one row of what the memory stores, got {describe(sample)}.")
    data = tree.map(lambda row: row.new_zeros((capacity, *row.shape)), sample)
    return Reservoir(data=data, seen=torch.tensor(0, device=leaves[0].device))


def add(memory: Reservoir, key: Tensor, rows: PyTree, valid: Tensor) -> Reservoir:
    """Offer n rows at once: the same as offering the valid ones one by one in order.

    rows: leaves [n, ...] in the structure of `memory.data`; valid: [n] bool.
    """
    checks.instance("memory", memory, Reservoir, "a Reservoir made by reservoir.init")
    checks.tensor("key", key, (), torch.int64, like=memory.seen)
    checks.tensor("valid", valid, dtype=torch.bool, like=memory.seen)
    if valid.ndim != 1:
        raise checks.refuse("valid", "bool[n], one for each row", valid)
    rows = replay.fit(rows, memory.data, n=valid.shape[0])
    n, capacity = valid.shape[0], memory.capacity
    turn = memory.seen + torch.cumsum(valid, 0)  # t of each valid row
    drawn = random.randint(key, n, 0, turn)
    place = torch.where(turn <= capacity, turn - 1, drawn)
    accepted = valid & (place < capacity)
    wins = accepted & ~_overwritten(place, accepted, capacity)

    # Writing twice to one place has no defined order. So each row that is not written for good writes what the last row that is
    # writes, at its place: equal values, any order. With no such row at all, the memory's first row is written over itself.
    turns = torch.arange(n, device=valid.device)
    last = torch.where(wins, turns, -1).amax()  # not argmax: compiled, it gives n and more where all are equal (torch 2.13)
    any_wins = last >= 0
    writer = torch.where(wins, turns, last.clamp(min=0))
    place = torch.where(any_wins, place[writer], torch.zeros_like(place))

    def write(slot: Tensor, row: Tensor) -> Tensor:
        keep = any_wins.reshape((1,) * row.ndim)
        return slot.index_put((place,), torch.where(keep, row[writer], slot[:1]))

    return memory.replace(data=tree.map(write, memory.data, rows), seen=memory.seen + valid.sum())  # type: ignore[attr-defined]


def _overwritten(place: Tensor, accepted: Tensor, capacity: int) -> Tensor:
    """Which rows a later accepted row of the same insertion replaces [n] bool."""
    n = place.shape[0]
    if n <= 64:  # pairs are cheaper than a table of the capacity, and need no scatter
        same = (place[:, None] == place[None, :]) & accepted[None, :]
        return torch.triu(same, diagonal=1).any(1)
    turn = torch.arange(n, device=place.device)
    target = torch.where(accepted, place, capacity)
    last = torch.full((capacity + 1,), -1, device=place.device).scatter_reduce(0, target, turn, "amax")
    return last[target] > turn


def insert(slot: str = "replay", fields: Callable[[Any, Experience], PyTree] = replay.fields) -> Update:
    """The Update that offers all rows of an experience to the reservoir in `state.<slot>`.

    `fields(state, exp)` says what is stored of its n rows, a tree of [n, ...]; by default x, y and task.
    """
    checks.path("slot", slot, "replay")
    checks.function("fields", fields, "a function fields(state, exp)")

    def update(state: Any, exp: Experience) -> Any:
        memory = checks.slot(state, slot, Reservoir, "a Reservoir made by reservoir.init")
        key, draw = random.split(state.key)
        memory = add(memory, draw, fields(state, exp), exp.valid)
        return tree.set(state.replace(key=key), {slot: memory})

    return update


def draw(memory: Reservoir, key: Tensor, n: int) -> tuple[PyTree, Tensor]:
    """n rows drawn uniformly with replacement from the filled ones: (tree of [n, ...], valid [n] bool).

    While fewer than n rows are filled only as many are valid; from an empty memory none is.
    """
    checks.instance("memory", memory, Reservoir, "a Reservoir made by reservoir.init")
    checks.tensor("key", key, (), torch.int64, like=memory.seen)
    checks.positive("n", n)
    place = random.randint(key, n, 0, memory.filled)
    valid = torch.arange(n, device=place.device) < memory.filled
    return tree.map(lambda slot: slot[place], memory.data), valid

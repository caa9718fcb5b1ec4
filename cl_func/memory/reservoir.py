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
from cl_func.core import Update
from cl_func.experiences import Experience
from cl_func.memory import places, replay
from cl_func.tree import PyTree, state


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
    data = places.allocate(capacity, sample)
    return Reservoir(data=data, seen=torch.tensor(0, device=tree.leaves(data)[0].device))


def add(memory: Reservoir, key: Tensor, rows: PyTree, valid: Tensor) -> Reservoir:
    """Offer n rows at once: the same as offering the valid ones one by one in order.

    rows: leaves [n, ...] in the structure of `memory.data`; valid: [n] bool.
    """
    checks.instance("memory", memory, Reservoir, "a Reservoir made by reservoir.init")
    checks.tensor("key", key, (), torch.int64, like=memory.seen)
    checks.tensor("valid", valid, dtype=torch.bool, like=memory.seen)
    if valid.ndim != 1:
        raise checks.type_error("valid", "bool[n], one for each row", valid)
    rows = replay.fit(rows, memory.data, n=valid.shape[0])
    n, capacity = valid.shape[0], memory.capacity
    turn = memory.seen + torch.cumsum(valid, 0)  # t of each valid row
    drawn = random.randint(key, n, 0, turn)
    place = torch.where(turn <= capacity, turn - 1, drawn)
    accepted = valid & (place < capacity)
    wins = accepted & ~places.overwritten(place, accepted, capacity)
    data = places.write(memory.data, rows, place, wins)
    return memory.replace(data=data, seen=memory.seen + valid.sum())  # type: ignore[attr-defined]


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
    checks.instance("memory", memory, Reservoir, "a Reservoir (cl.memory.draws.uniform draws from any memory)")
    filled = memory.filled
    checks.tensor("key", key, (), torch.int64, like=filled)
    checks.positive_int("n", n)
    place = random.randint(key, n, 0, filled)
    valid = torch.arange(n, device=place.device) < filled
    return tree.map(lambda slot: slot[place], memory.data), valid

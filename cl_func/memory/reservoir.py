"""Reservoir sampling: a memory that holds a uniform sample of everything offered so far (Vitter 1985, Algorithm R).

The t-th row offered (t = 1, 2, ...) is stored at index t - 1 while there is room; afterwards it draws an index uniformly from
0..t-1 and replaces the row there, if the memory has that index. So at any time each row offered so far has been kept with
probability capacity / t.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random, signatures, tree
from cl_func.core import Update
from cl_func.experiences import Experience
from cl_func.memory import buffer, draws, replay
from cl_func.memory.kinds import Fields, Packed
from cl_func.memory.offering import offer
from cl_func.torch_private import is_eager_cpu
from cl_func.tree import PyTree, state


@state
class Reservoir(Packed):
    """A replay memory of fixed capacity. The first `min(seen, capacity)` rows are filled, in no particular order."""

    data: PyTree  # leaves [capacity, ...]; by default x, y and task
    seen: Tensor  # () int64, rows offered so far

    @property
    def filled(self) -> Tensor:
        """How many rows are filled, () int64."""
        return self.seen.clamp(max=self.capacity)


def init(capacity: int, sample: PyTree) -> Reservoir:
    """An empty reservoir for rows like `sample`: a tree of tensors, each with the shape and dtype of one row.

    `cl.memory.sample(model)` gives the usual x, y, task. Raises ValueError for a capacity below 1 or a sample without tensors.
    """
    data = buffer.allocate(capacity, sample)
    return Reservoir(data=data, seen=torch.tensor(0, device=tree.leaves(data)[0].device))


def add(memory: Reservoir, key: Tensor, rows: PyTree, valid: Tensor) -> Reservoir:
    """Offer n rows at once: the same as offering the valid ones one by one in order.

    rows: leaves [n, ...] in the structure of `memory.data`; valid: [n] bool.
    """
    rows = buffer.check_add(memory, Reservoir, "reservoir.init", key, rows, valid)
    n, capacity = valid.shape[0], memory.capacity
    t = memory.seen + torch.cumsum(valid, 0)  # of each valid row
    drawn = random.randint(key, n, 0, t)
    index = torch.where(t <= capacity, t - 1, drawn)
    accepted = valid & (index < capacity)
    if is_eager_cpu(accepted) and not accepted.any():  # as of most minibatches, once far more rows than it holds were seen
        return tree.replace(memory, seen=memory.seen + valid.sum())
    wins = accepted & ~buffer.overwritten(index, accepted, capacity)
    data = buffer.write(memory.data, rows, index, wins)
    return tree.replace(memory, data=data, seen=memory.seen + valid.sum())


def insert(slot: str = "replay", fields: Fields = replay.fields) -> Update:
    """The Update that offers all rows of an experience to the reservoir in `state.<slot>`.

    `fields(state, exp)` says what is stored of its n rows, a tree of [n, ...]; by default x, y and task.
    """
    checks.path("slot", slot, "replay")
    signatures.function("fields", fields, 2, "a function fields(state, exp)")
    return partial(_insert, slot=slot, fields=fields)


def _insert(state: Any, exp: Experience, *, slot: str, fields: Fields) -> Any:
    memory: Reservoir = checks.slot(state, slot, Reservoir, "a Reservoir made by reservoir.init")
    key, draw_key = random.split(state.key)
    memory = offer(add, memory, draw_key, state, exp, fields)
    return tree.set(state.replace(key=key), {slot: memory})


def draw(memory: Reservoir, key: Tensor, n: int) -> tuple[PyTree, Tensor]:
    """n rows drawn uniformly with replacement from the filled ones, as by `draws.uniform`: (tree of [n, ...], valid [n] bool).

    While fewer than n rows are filled only as many are valid; from an empty memory none is.
    """
    checks.instance("memory", memory, Reservoir, "a Reservoir (cl.memory.draws.uniform draws from any memory)")
    return draws.uniform(memory, key, n)

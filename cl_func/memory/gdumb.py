"""GDumb's greedy balancing sampler (Prabhu, Torr & Dokania, "GDumb: a simple approach that questions our progress in continual
learning", ECCV 2020, Algorithm 1).

A row is accepted if its class has not had its share of the memory yet, capacity / classes seen so far (rounded down, at least 1);
if the memory is full it replaces a random row of the largest class. So the first rows of each class are accepted, and a class
shrinks as more classes come. The last rows of a long experience never get in: that is the difference to `balanced`.

A class that has had its share accepts no more rows, and loses rows only after that. So which rows are accepted follows from
counting what was offered, and which are replaced follows from priorities as in `balanced`: the row of the largest class with the
largest priority.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random, signatures, tree
from cl_func.checks import positive_int
from cl_func.core import Update
from cl_func.experiences import Experience, one_hot
from cl_func.memory import balanced, buffer, replay
from cl_func.memory.draws import uniform as draw
from cl_func.memory.kinds import Fields
from cl_func.memory.offering import offer
from cl_func.tree import PyTree, state

__all__ = ["GDumb", "add", "draw", "init", "insert"]


@state
class GDumb(balanced.Balanced):
    """A replay memory of fixed capacity, greedily balanced over classes. The first `filled` rows are filled."""

    offered: Tensor  # [C] int64, rows of each class offered so far


def init(capacity: int, sample: PyTree, n_classes: int) -> GDumb:
    """An empty memory for rows like `sample`, a tree of tensors, with labels 0..n_classes-1; errors as in `reservoir.init`."""
    positive_int("n_classes", n_classes)
    empty = balanced.init(capacity, sample)
    return GDumb(
        data=empty.data,
        group=empty.group,
        priority=empty.priority,
        order=empty.order,
        filled=empty.filled,
        offered=torch.zeros(n_classes, dtype=torch.int64, device=empty.filled.device),
    )


def add(memory: GDumb, key: Tensor, rows: PyTree, valid: Tensor, label: Tensor) -> GDumb:
    """Offer n rows at once: the same as offering the valid ones one by one in order.

    rows: leaves [n, ...] in the structure of `memory.data`; valid: [n] bool; label: [n] int64 in 0..C-1.
    """
    rows = buffer.check_add(memory, GDumb, "gdumb.init", key, rows, valid)
    checks.tensor("label", label, valid.shape, torch.int64, like=valid)
    counts = memory.offered + torch.cumsum(one_hot(label, valid, memory.offered.shape[0]), 0)  # [n, C], the row itself included
    share = (memory.capacity // (counts > 0).sum(1).clamp(min=1)).clamp(min=1)
    accepted = valid & (counts.gather(1, label[:, None])[:, 0] <= share)
    return tree.replace(balanced._add(memory, key, rows, accepted, label), offered=counts[-1])


def insert(slot: str = "replay", fields: Fields = replay.fields) -> Update:
    """The Update that offers all rows of an experience, in their order, to the memory in `state.<slot>`.

    The order decides which rows of a class are stored; how many, it changes by at most one row per class. `fields(state, exp)` says
    what is stored of its n rows, a tree of [n, ...]; by default x, y and task.
    """
    checks.path("slot", slot, "replay")
    signatures.function("fields", fields, 2, "a function fields(state, exp)")
    return partial(_insert, slot=slot, fields=fields)


def _insert(state: Any, exp: Experience, *, slot: str, fields: Fields) -> Any:
    key, draw_key = random.split(state.key)
    memory: GDumb = checks.slot(state, slot, GDumb, "a GDumb made by gdumb.init")
    label = replay.labels(exp, memory.offered.shape[0])
    return tree.set(state.replace(key=key), {slot: offer(add, memory, draw_key, state, exp, fields, label)})

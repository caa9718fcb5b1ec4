"""GDumb's greedy balancing sampler (Prabhu, Torr & Dokania, "GDumb: a simple approach that questions our progress in continual
learning", ECCV 2020, Algorithm 1).

A row is taken if its class has not had its share of the places yet, capacity / classes seen so far (rounded down, at least 1);
where the memory is full it takes the place of a random row of the largest class. So of each class the first rows are taken, and
its number shrinks as more classes come; the last rows of a long experience never get in, which is what tells it from `balanced`.

A class that has had its share takes no more, and loses rows only after that. So which rows are taken follows from counting what
was offered, and which are replaced from priorities as in `balanced`: of the largest class the row with the largest random one goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.checks import positive_int
from cl_func.core import Update
from cl_func.experiences import Experience, one_hot
from cl_func.memory import balanced, replay
from cl_func.memory.draws import uniform as draw
from cl_func.tree import PyTree, state

__all__ = ["GDumb", "add", "draw", "init", "insert"]


@state
class GDumb(balanced.Balanced):
    """A replay memory of fixed capacity, greedily balanced over classes. The first `filled` rows are filled."""

    offered: Tensor  # [C] int64, rows of each class offered so far


def init(capacity: int, sample: PyTree, n_classes: int) -> GDumb:
    """An empty memory for rows like `sample`, a tree of tensors, of labels 0..n_classes-1; errors as in `reservoir.init`."""
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

    rows: leaves [n, ...] in the structure of `memory.data`; valid: [n] bool; label: [n] int64.
    """
    counts = memory.offered + torch.cumsum(one_hot(label, valid, memory.offered.shape[0]), 0)  # [n, C], with the row itself
    share = (memory.capacity // (counts > 0).sum(1).clamp(min=1)).clamp(min=1)
    taken = valid & (counts.gather(1, label[:, None])[:, 0] <= share)
    memory = balanced.add(memory, key, rows, taken, label)
    return memory.replace(offered=counts[-1])  # type: ignore[attr-defined]


def insert(slot: str = "replay", fields: Callable[[Any, Experience], PyTree] = replay.fields) -> Update:
    """The Update that offers all rows of an experience, in their order, to the memory in `state.<slot>`.

    The order decides which rows of a class are taken; the numbers of rows of the classes follow from it up to one row each.
    `fields(state, exp)` says what is stored of its n rows, a tree of [n, ...]; by default x, y and task.
    """
    checks.path("slot", slot, "replay")
    checks.function("fields", fields, "a function fields(state, exp)")

    def update(state: Any, exp: Experience) -> Any:
        key, draw = random.split(state.key)
        memory = checks.slot(state, slot, GDumb, "a GDumb made by gdumb.init")
        label = replay.labels(exp, memory.offered.shape[0])
        return tree.set(state.replace(key=key), {slot: add(memory, draw, fields(state, exp), exp.valid, label)})

    return update

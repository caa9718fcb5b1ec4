"""A ring buffer per class: the last rows offered of each class, first in, first out (Chaudhry et al. 2019, "On tiny episodic
memories in continual learning", the ring buffer).

With k rows per class, the t-th row of class c (t = 0, 1, ...) is stored at index c * k + t mod k.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, signatures, tree
from cl_func.checks import positive_int
from cl_func.core import Update
from cl_func.experiences import Experience, one_hot
from cl_func.memory import buffer, replay
from cl_func.memory.draws import uniform as draw
from cl_func.memory.kinds import Fields
from cl_func.memory.offering import offer
from cl_func.tree import PyTree, state

__all__ = ["Ring", "add", "draw", "init", "insert"]


@state
class Ring:
    """A replay memory with room for `per_class` rows of each class. Which rows are filled, `occupied` says."""

    data: PyTree  # leaves [C * per_class, ...]; by default x, y and task
    offered: Tensor  # [C] int64, rows of each class offered so far

    @property
    def capacity(self) -> int:
        """How many rows there is room for, of all classes together."""
        return tree.leaves(self.data)[0].shape[0]

    @property
    def per_class(self) -> int:
        """How many rows of each class there is room for."""
        return self.capacity // self.offered.shape[0]

    @property
    def occupied(self) -> Tensor:
        """Which rows are filled, [capacity] bool."""
        return (torch.arange(self.per_class, device=self.offered.device) < self.offered[:, None]).flatten()


def init(per_class: int, sample: PyTree, n_classes: int) -> Ring:
    """Empty rings of `per_class` rows like `sample`, a tree of tensors, for the labels 0..n_classes-1.

    Raises ValueError for sizes below 1 or a sample without tensors, TypeError for sizes that are not integers.
    """
    positive_int("per_class", per_class)
    data = buffer.allocate(per_class * positive_int("n_classes", n_classes), sample)
    return Ring(data=data, offered=torch.zeros(n_classes, dtype=torch.int64, device=tree.leaves(data)[0].device))


def add(memory: Ring, key: Tensor, rows: PyTree, valid: Tensor, label: Tensor) -> Ring:
    """Append n rows at once: the same as appending the valid ones one by one in order.

    key: not drawn from, here so that all memories take the same arguments; rows: leaves [n, ...] in the structure of `memory.data`;
    valid: [n] bool; label: [n] int64 in 0..C-1.
    """
    rows = buffer.check_add(memory, Ring, "ring.init", key, rows, valid)
    checks.tensor("label", label, valid.shape, torch.int64, like=valid)
    counts = memory.offered + torch.cumsum(one_hot(label, valid, memory.offered.shape[0]), 0)  # [n, C], the row itself included
    t = counts.gather(1, label[:, None])[:, 0] - 1
    stays = valid & (t >= counts[-1][label] - memory.per_class)
    index = label * memory.per_class + t % memory.per_class
    data = buffer.write(memory.data, rows, index, stays)
    return tree.replace(memory, data=data, offered=counts[-1])


def insert(slot: str = "replay", fields: Fields = replay.fields) -> Update:
    """The Update that appends all rows of an experience, in their order, to the rings in `state.<slot>`.

    The order decides which rows of a class stay, not how many. `fields(state, exp)` says what is stored of its n rows, a tree of
    [n, ...]; by default x, y and task.
    """
    checks.path("slot", slot, "replay")
    signatures.function("fields", fields, 2, "a function fields(state, exp)")
    return partial(_insert, slot=slot, fields=fields)


def _insert(state: Any, exp: Experience, *, slot: str, fields: Fields) -> Any:
    memory: Ring = checks.slot(state, slot, Ring, "a Ring made by ring.init")
    label = replay.labels(exp, memory.offered.shape[0])
    return tree.set(state, {slot: offer(add, memory, state.key, state, exp, fields, label)})

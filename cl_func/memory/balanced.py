"""A memory with an equal share for every class, or experience, or task: of each a uniform sample, whatever the order they come in.

Every row offered gets a random word, its priority. Within its group (its class, say) rows are ranked 0, 1, 2, ... by priority, and
the memory holds the first `capacity` rows offered so far in the order of
    (rank within the group, the group's own random word)
So each group has capacity // groups or one more, and groups with fewer rows than that keep all of theirs and leave the rest of
their share to the others: the memory is full as soon as `capacity` rows have been offered. Within a group the rows kept are those
of the smallest priorities, a uniform sample (bottom-k sampling; Cohen & Kaplan, "Summarizing data using bottom-k sketches", PODC
2007). Where groups outnumber the places, one row each of a uniform sample of the groups is kept.

A row left out once would be left out ever after, so nothing but what is kept needs to be remembered, and rows may come in batches
of any size.
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
from cl_func.memory.draws import uniform as draw
from cl_func.tree import PyTree, state

__all__ = ["Balanced", "add", "by_class", "by_experience", "by_task", "draw", "init", "insert"]

LAST = torch.iinfo(torch.int64).max


@state
class Balanced:
    """A replay memory of fixed capacity, balanced over groups. The first `filled` rows are filled, in no particular order."""

    data: PyTree  # leaves [capacity, ...]; by default x, y and task
    group: Tensor  # [capacity] int64, the group of each row
    priority: Tensor  # [capacity] int64, 31 random bits; the smallest are kept
    order: Tensor  # () int64, the key of the groups' random words, drawn with the first rows
    filled: Tensor  # () int64, how many rows are filled

    @property
    def capacity(self) -> int:
        """How many rows fit in."""
        return self.group.shape[0]

    @property
    def occupied(self) -> Tensor:
        """Which rows are filled, [capacity] bool."""
        return torch.arange(self.capacity, device=self.filled.device) < self.filled


def init(capacity: int, sample: PyTree) -> Balanced:
    """An empty memory for rows like `sample`, a tree of tensors; errors as in `reservoir.init`."""
    data = places.allocate(capacity, sample)
    none = torch.zeros(capacity, dtype=torch.int64, device=tree.leaves(data)[0].device)
    return Balanced(data=data, group=none, priority=none.clone(), order=none.sum(), filled=none.sum())


def add(memory: Any, key: Tensor, rows: PyTree, valid: Tensor, group: Tensor) -> Any:
    """Offer n rows at once: the same as offering the valid ones one by one in order.

    rows: leaves [n, ...] in the structure of `memory.data`; valid: [n] bool; group: [n] int64 within 32 bits, such as the labels.
    """
    rows = replay.fit(rows, memory.data, n=valid.shape[0])
    checks.tensor("group", group, valid.shape, torch.int64, like=valid)
    n, capacity = valid.shape[0], memory.capacity
    fresh, words = random.split(key)
    order = torch.where((memory.filled == 0) & valid.any(), fresh, memory.order)
    priority = _word(random.bits(words, n))

    there = torch.cat([memory.occupied, valid])
    kept = _kept(torch.cat([memory.group, group]), torch.cat([memory.priority, priority]), there, order, capacity)
    accepted = kept[capacity:]
    place = places.where(~kept[:capacity])[(torch.cumsum(accepted, 0) - 1).clamp(min=0)]
    old, new = (memory.data, memory.group, memory.priority), (rows, group, priority)
    data, group, priority = places.write(old, new, place, accepted)
    return memory.replace(data=data, group=group, priority=priority, order=order, filled=kept.sum())


def _word(bits: Tensor) -> Tensor:
    return (bits >> 32) & 0x7FFFFFFF


def _kept(group: Tensor, priority: Tensor, there: Tensor, order: Tensor, capacity: int) -> Tensor:
    """The candidates [N] bool that are first in the order of (rank within the group, the group's random word)."""
    by_group = torch.argsort(torch.where(there, (group << 32) + priority, LAST), stable=True)
    group = torch.where(there, group, LAST)[by_group]
    starts = torch.cat([torch.ones_like(there[:1]), group[1:] != group[:-1]])
    rank = torch.arange(len(group), device=group.device) - places.where(starts)[torch.cumsum(starts, 0) - 1]
    turn = torch.where(there[by_group], (rank << 32) + _word(random.children(order, group)), LAST)
    first = by_group[torch.argsort(turn, stable=True)[:capacity]]
    return torch.zeros_like(there).scatter(0, first, True) & there


def by_class(state: Any, exp: Experience) -> Tensor:
    """Groups [n] for a class-balanced memory: the labels."""
    return exp.y


def by_experience(state: Any, exp: Experience) -> Tensor:
    """Groups [n] for an experience-balanced memory: the experience's place in the stream, of each row.

    The pieces of an online stream count one by one.
    """
    return exp.index.expand(exp.rows.shape)


def by_task(state: Any, exp: Experience) -> Tensor:
    """Groups [n] for a task-balanced memory: the task label of each row."""
    return exp.tasks


def insert(
    slot: str = "replay",
    fields: Callable[[Any, Experience], PyTree] = replay.fields,
    groups: Callable[[Any, Experience], Tensor] = by_class,
) -> Update:
    """The Update that offers all rows of an experience to the balanced memory in `state.<slot>`.

    `fields(state, exp)` says what is stored of its n rows, a tree of [n, ...]; by default x, y and task. `groups(state, exp)` [n]
    int64 says over what the memory is balanced: `by_class`, `by_experience`, `by_task`, or a function of your own.
    """
    checks.path("slot", slot, "replay")
    checks.function("fields", fields, "a function fields(state, exp)")
    checks.function("groups", groups, "a function groups(state, exp)")

    def update(state: Any, exp: Experience) -> Any:
        memory = checks.slot(state, slot, Balanced, "a Balanced made by balanced.init")
        key, draw = random.split(state.key)
        memory = add(memory, draw, fields(state, exp), exp.valid, groups(state, exp))
        return tree.set(state.replace(key=key), {slot: memory})

    return update

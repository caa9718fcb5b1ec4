"""A memory with an equal share for every class, or experience, or task: a uniform sample of each, whatever order they come in.

Every row offered gets a random priority. Within its group (its class, say) rows are ranked 0, 1, 2, ... by priority, and the
memory holds the first `capacity` rows offered so far in the order of
    (rank within the group, a random priority of the group)
So each group has capacity // groups rows or one more. A group with fewer rows than that keeps all of them and leaves the rest of
its share to the others: the memory is full as soon as `capacity` rows have been offered. The rows kept of a group are those with
the smallest priorities, a uniform sample (bottom-k sampling; Cohen & Kaplan, "Summarizing data using bottom-k sketches", PODC
2007). If there are more groups than rows, the memory keeps one row each of a uniform sample of the groups.

A row that is left out once would be left out ever after, so nothing needs to be remembered beyond what is kept, and rows may come
in batches of any size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from cl_func import checks, random, signatures, tree
from cl_func.core import Update
from cl_func.experiences import Experience
from cl_func.memory import buffer, replay
from cl_func.memory.buffer import LAST
from cl_func.memory.draws import uniform as draw
from cl_func.memory.kinds import Fields, Packed
from cl_func.memory.offering import offer
from cl_func.tree import PyTree, state

__all__ = ["Balanced", "add", "by_class", "by_experience", "by_task", "draw", "init", "insert"]

Groups = Callable[[Any, Experience], Tensor]  # (state, exp) -> the group of each row, [n] int64


@state
class Balanced(Packed):
    """A replay memory of fixed capacity, balanced over groups. The first `filled` rows are filled, in no particular order."""

    data: PyTree  # leaves [capacity, ...]; by default x, y and task
    group: Tensor  # [capacity] int64, the group of each row
    priority: Tensor  # [capacity] int64, 31 random bits; the smallest are kept
    order: Tensor  # () int64, the key of the groups' priorities, drawn with the first rows
    filled: Tensor  # () int64, how many rows are filled


M = TypeVar("M", bound=Balanced)


def init(capacity: int, sample: PyTree) -> Balanced:
    """An empty memory for rows like `sample`, a tree of tensors; errors as in `reservoir.init`."""
    data = buffer.allocate(capacity, sample)
    zeros = torch.zeros(capacity, dtype=torch.int64, device=tree.leaves(data)[0].device)
    return Balanced(data=data, group=zeros, priority=zeros.clone(), order=zeros.sum(), filled=zeros.sum())


def add(memory: M, key: Tensor, rows: PyTree, valid: Tensor, group: Tensor) -> M:
    """Offer n rows at once: the same as offering the valid ones one by one in order.

    rows: leaves [n, ...] in the structure of `memory.data`; valid: [n] bool; group: [n] int64 within 32 bits, such as the labels.
    """
    rows = buffer.check_add(memory, Balanced, "balanced.init", key, rows, valid)
    checks.tensor("group", group, valid.shape, torch.int64, like=valid)
    return _add(memory, key, rows, valid, group)


def _add(memory: M, key: Tensor, rows: PyTree, valid: Tensor, group: Tensor) -> M:
    n, capacity = valid.shape[0], memory.capacity
    order_key, priority_key = random.split(key)
    order = torch.where((memory.filled == 0) & valid.any(), order_key, memory.order)
    priority = _upper_bits(random.bits(priority_key, n))

    candidates = torch.cat([memory.occupied, valid])
    kept = _kept(torch.cat([memory.group, group]), torch.cat([memory.priority, priority]), candidates, order, capacity)
    accepted = kept[capacity:]
    index = buffer.flatnonzero(~kept[:capacity])[(torch.cumsum(accepted, 0) - 1).clamp(min=0)]
    old, new = (memory.data, memory.group, memory.priority), (rows, group, priority)
    data, group, priority = buffer.write(old, new, index, accepted)
    return tree.replace(memory, data=data, group=group, priority=priority, order=order, filled=kept.sum())


def _upper_bits(bits: Tensor) -> Tensor:
    """31 of the 64 random bits, as an integer of at least 0."""
    return (bits >> 32) & 0x7FFFFFFF


def _kept(group: Tensor, priority: Tensor, candidates: Tensor, order: Tensor, capacity: int) -> Tensor:
    """Which of N rows, of those that are candidates [N] bool, are the first by (rank within the group, the group's priority)."""
    by_group = torch.argsort(torch.where(candidates, (group << 32) + priority, LAST), stable=True)
    group = torch.where(candidates, group, LAST)[by_group]
    starts = torch.cat([torch.ones_like(candidates[:1]), group[1:] != group[:-1]])
    rank = torch.arange(len(group), device=group.device) - buffer.flatnonzero(starts)[torch.cumsum(starts, 0) - 1]
    sort_keys = torch.where(candidates[by_group], (rank << 32) + _upper_bits(random.children(order, group)), LAST)
    first = by_group[torch.argsort(sort_keys, stable=True)[:capacity]]
    return torch.zeros_like(candidates).scatter(0, first, True) & candidates


def by_class(state: Any, exp: Experience) -> Tensor:
    """Groups [n] for a class-balanced memory: the labels."""
    return checks.instance("exp", exp, Experience, "an Experience").y


def by_experience(state: Any, exp: Experience) -> Tensor:
    """Groups [n] for an experience-balanced memory: the index of the experience in the stream, for each row.

    Each piece of an online stream counts as an experience.
    """
    checks.instance("exp", exp, Experience, "an Experience")
    return exp.index.expand(exp.rows.shape)


def by_task(state: Any, exp: Experience) -> Tensor:
    """Groups [n] for a task-balanced memory: the task label of each row."""
    return checks.instance("exp", exp, Experience, "an Experience").tasks


def insert(slot: str = "replay", fields: Fields = replay.fields, groups: Groups = by_class) -> Update:
    """The Update that offers all rows of an experience to the balanced memory in `state.<slot>`.

    `fields(state, exp)` says what is stored of its n rows, a tree of [n, ...]; by default x, y and task. `groups(state, exp)` [n]
    int64 says what the memory is balanced over: `by_class`, `by_experience`, `by_task`, or a function of your own.
    """
    checks.path("slot", slot, "replay")
    signatures.function("fields", fields, 2, "a function fields(state, exp)")
    signatures.function("groups", groups, 2, "a function groups(state, exp)")
    return partial(_insert, slot=slot, fields=fields, groups=groups)


def _insert(state: Any, exp: Experience, *, slot: str, fields: Fields, groups: Groups) -> Any:
    memory: Balanced = checks.slot(state, slot, Balanced, "a Balanced made by balanced.init")
    key, draw_key = random.split(state.key)
    memory = offer(add, memory, draw_key, state, exp, fields, groups(state, exp))
    return tree.set(state.replace(key=key), {slot: memory})

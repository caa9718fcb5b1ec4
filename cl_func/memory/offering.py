"""Offering an experience to a memory, reading from a disk only the rows that stay.

An `add` moves rows without looking at them. So it can move their numbers first, in a memory that holds numbers in place of rows;
then only the rows whose numbers are left in it are gathered: as many as the memory holds, however long the experience.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.experiences import Experience
from cl_func.memory import buffer, replay
from cl_func.memory.kinds import Fields


def offer(add: Callable[..., Any], memory: Any, key: Tensor, state: Any, exp: Experience, fields: Fields, *others: Tensor) -> Any:
    """`add(memory, key, fields(state, exp), exp.valid, *others)`, to the bit; `others` [n, ...] are of all rows.

    If the experience is on a disk and longer than the memory, only rows that stay are gathered, at most `memory.capacity`. That is
    for `replay.fields`; other fields may depend on more than their own row, and are made of all rows.
    """
    checks.instance("exp", exp, Experience, "an Experience")
    n, capacity = len(exp), memory.capacity
    if not exp.source.on_disk or n <= capacity or fields is not replay.fields:
        return add(memory, key, fields(state, exp), exp.valid, *others)
    slots = torch.arange(capacity, device=exp.rows.device)
    positions = torch.arange(n, device=exp.rows.device)
    moved = add(tree.replace(memory, data=-1 - slots), key, positions, exp.valid, *others)
    position = moved.data  # of the row of the experience in each slot; -1 - s for what was in slot s before
    new = position >= 0
    rows = replay.fields(state, exp.take(exp.rows[position.clamp(min=0)], new))
    before = (-1 - position).clamp(min=0)

    def settled(old: Tensor, row: Tensor) -> Tensor:
        return torch.where(new.reshape(-1, *[1] * (old.ndim - 1)), row, old.index_select(0, before))

    return tree.replace(moved, data=tree.map(settled, memory.data, buffer.fit(rows, memory.data, n=capacity)))

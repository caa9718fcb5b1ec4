"""Traces: a number of each step, kept in a ring in the state; what a history and a tap make of it.

The i-th value recorded is at i mod n of a ring of n, so a trace has one shape however long a run is. `cl.trace` has the functions
that record and read.
"""

from __future__ import annotations

from typing import Any

import optree
import torch
from torch import Tensor

from cl_func import tree
from cl_func.tree import PyTree, state


@state
class Trace:
    """The last n values recorded; made by `cl.trace.init`."""

    values: Tensor  # [n] float32; value i at i mod n
    count: Tensor  # () int64, how many have been recorded


@state
class Snapshot:
    """A trace as it is in an entry of a history, or stacked over time in a whole one; made by `cl.trace.probe`."""

    values: Tensor  # [n] float32, in a history [time, n]
    count: Tensor  # () int64, in a history [time]


@state
class Steps:
    """What a tap gets in place of a trace: the values recorded since the entry before."""

    numbers: Tensor  # [k] int64, the number of each value, from 0 at the start of the run; -1 behind those of a lane with fewer
    values: Tensor  # [k] float32; NaN where there is no number


def lookup(values: Tensor, count: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The values [..., k] with some numbers [..., k], from rings [..., n], and whether the rings hold them, [..., k] bool."""
    n = values.shape[-1]
    held = (numbers >= count[..., None] - n) & (numbers < count[..., None])
    return values.gather(-1, (numbers % n).expand(held.shape)), held


def since(entry: PyTree, before: PyTree | None) -> PyTree:
    """An entry of a history with `Steps` in place of each `Snapshot`; `before` is the entry before it."""

    def cut(node: Any, earlier: Any) -> Any:
        if not isinstance(node, Snapshot):
            return node
        start = torch.zeros_like(node.count) if earlier is None else earlier.count.to(node.count.device)
        first = torch.maximum(start, node.count - node.values.shape[-1])
        numbers = first[..., None] + torch.arange(int((node.count - first).max()), device=first.device)
        values, held = lookup(node.values, node.count, numbers)
        return Steps(numbers=torch.where(held, numbers, -1), values=torch.where(held, values, torch.nan))

    nodes, structure = optree.tree_flatten(entry, is_leaf=_is_snapshot, namespace=tree.NAMESPACE)
    others = [None] * len(nodes) if before is None else structure.flatten_up_to(before)
    return tree.unflatten(structure, [cut(node, other) for node, other in zip(nodes, others, strict=True)])


def _is_snapshot(node: Any) -> bool:
    return isinstance(node, Snapshot)


def lane(entry: PyTree, index: int) -> PyTree:
    """One lane of an entry, whose leaves have lanes first; of `Steps` only the values that this lane has."""

    def take(node: Any) -> Any:
        if not isinstance(node, Steps):
            return node[index]
        held = node.numbers[index] >= 0
        return Steps(numbers=node.numbers[index][held], values=node.values[index][held])

    nodes, structure = optree.tree_flatten(entry, is_leaf=lambda node: isinstance(node, Steps), namespace=tree.NAMESPACE)
    return tree.unflatten(structure, [take(node) for node in nodes])

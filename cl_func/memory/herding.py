"""Herding: the exemplar memory of iCaRL (Rebuffi et al., "iCaRL: incremental classifier and representation learning", CVPR 2017,
Algorithms 4 and 5).

The capacity K is split equally over the t classes offered so far, floor(K / t) exemplars each. The exemplars of a class are in
herding order, chosen one after the other so that the mean of those chosen follows the mean of the class:

    p_k = argmin_x | mu - 1/k [ phi(x) + sum_{j < k} phi(p_j) ] |,    mu = mean of phi over the rows of the class

with features phi of unit length. To make room a class keeps its first exemplars. In the paper each class comes once; a class that
comes again is herded anew, from its exemplars and the new rows together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, signatures, tree
from cl_func.checks import positive_int
from cl_func.compiler.operators import opaque
from cl_func.core import Update
from cl_func.experiences import Experience, one_hot
from cl_func.memory import buffer, replay
from cl_func.memory.draws import uniform as draw
from cl_func.memory.kinds import Fields, Packed
from cl_func.models import Model, ModelState, cosine, feature_function, features
from cl_func.tree import PyTree, state

__all__ = ["Herding", "add", "draw", "init", "insert", "unit"]

TIE = 1e-5  # scores closer than this are a tie: float32 cannot tell which of two rows represents their mean best


@state
class Herding(Packed):
    """A memory of exemplars. The first `filled` rows are filled, in no particular order; the others are 0."""

    data: PyTree  # leaves [capacity, ...]; by default x, y and task
    label: Tensor  # [capacity] int64, the class of each exemplar
    rank: Tensor  # [capacity] int64, its position in the herding order of its class, from 0
    filled: Tensor  # () int64, how many rows are filled
    seen: Tensor  # [C] bool, classes offered so far


def init(capacity: int, sample: PyTree, n_classes: int) -> Herding:
    """An empty memory for rows like `sample`: a tree of tensors, each with the shape and dtype of one row.

    Raises ValueError for a capacity below the number of classes, or a sample without tensors.
    """
    if positive_int("capacity", capacity) < positive_int("n_classes", n_classes):
        raise ValueError(
            f"capacity: {capacity} rows for {n_classes} classes leave none to some; give a capacity of at least {n_classes}."
        )
    data = buffer.allocate(capacity, sample)
    device = tree.leaves(sample)[0].device
    zeros = torch.zeros(capacity, dtype=torch.int64, device=device)
    seen = torch.zeros(n_classes, dtype=torch.bool, device=device)
    return Herding(data=data, label=zeros, rank=zeros.clone(), filled=torch.tensor(0, device=device), seen=seen)


def unit(rows: Tensor) -> Tensor:
    """Features [n, F] scaled to length 1; 0 stays 0."""
    if not isinstance(rows, Tensor) or rows.ndim != 2 or not rows.is_floating_point():
        raise checks.type_error("rows", "floating features [n, F]", rows)
    return cosine.unit(rows)


@opaque("rows, group, steps", like=lambda rows, group, steps: torch.empty_like(group))
def _herd(rows: Tensor, group: Tensor, steps: Tensor) -> Tensor:
    """The position of each row in the herding order of its group, int64 [n]; n for a row that is not among the first `steps`.

    rows: features [n, F]; group: [n] int64, -1 for rows that take no part; steps: () int64. Of equally good rows the first is
    chosen.
    """
    rank = torch.full_like(group, group.shape[0])
    for label in group.unique().tolist():
        if label < 0:
            continue
        members = (group == label).nonzero().flatten()
        phi = rows[members]
        mean = phi.mean(0)
        half = phi.square().sum(1) / 2
        penalty = torch.zeros(len(members), dtype=rows.dtype, device=rows.device)  # minus infinity once a row is chosen
        chosen = torch.zeros_like(mean)
        for k in range(min(int(steps), len(members))):
            # |mean - (phi + chosen) / (k + 1)|^2 falls as this grows:
            score = phi @ ((k + 1) * mean - chosen) - half + penalty
            best = (score >= score.max() - TIE).to(torch.int8).argmax()
            rank[members[best]] = k
            penalty[best] = -torch.inf
            chosen = chosen + phi[best]
    return rank


def add(memory: Herding, key: Tensor, rows: PyTree, valid: Tensor, label: Tensor, embed: Callable[[PyTree], Tensor]) -> Herding:
    """Offer n rows at once, and choose the exemplars of their classes anew.

    key: not drawn from, here so that all memories take the same arguments; rows: leaves [n, ...] in the structure of `memory.data`;
    valid: [n] bool; label: [n] int64 in 0..C-1; embed: gives the features [m, F] of rows [m, ...], called once with the stored rows
    and the new ones together.
    """
    rows = buffer.check_add(memory, Herding, "herding.init", key, rows, valid)
    checks.tensor("label", label, valid.shape, torch.int64, like=valid)
    signatures.function("embed", embed, 1, "a function embed(rows)")
    capacity = memory.capacity
    candidates = tree.map(lambda old, new: torch.cat([old, new]), memory.data, rows)
    labels = torch.cat([memory.label, label])
    present = torch.cat([memory.occupied, valid])
    arriving = one_hot(label, valid, memory.seen.shape[0]).any(0)
    seen = memory.seen | arriving
    quota = capacity // seen.sum().clamp(min=1)

    # Only the classes of the new rows are herded; the others keep the order that they have.
    herded = present & arriving[labels]
    old_rank = torch.cat([memory.rank, torch.zeros_like(label)])
    phi = embed(candidates)
    if not isinstance(phi, Tensor) or phi.ndim != 2 or not phi.is_floating_point() or phi.shape[0] != labels.shape[0]:
        raise checks.type_error("embed", f"it to give floating features [{labels.shape[0]}, F], one row for each row", phi)
    phi = unit(phi)
    rank = torch.where(herded, _herd(phi, torch.where(herded, labels, -1), quota), old_rank)
    keep = present & (rank < quota)
    filled = keep.sum()
    index = torch.argsort((~keep).to(torch.int8), stable=True)[:capacity]
    kept = torch.arange(capacity, device=label.device) < filled

    def pack(values: Tensor) -> Tensor:
        values = values[index]
        return tree.where(kept, values, torch.zeros_like(values))

    return tree.replace(memory, data=tree.map(pack, candidates), label=pack(labels), rank=pack(rank), filled=filled, seen=seen)


def insert(model: Model, slot: str = "replay", fields: Fields = replay.fields) -> Update:
    """The Update that offers all rows of an experience to the memory in `state.<slot>`, by the model's features as they are now.

    `fields(state, exp)` says what is stored of its n rows, a tree of [n, ...] with x and task in it; by default x, y and task.
    """
    checks.model("model", model)
    checks.path("slot", slot, "replay")
    signatures.function("fields", fields, 2, "a function fields(state, exp)")
    feature_function(model)
    return partial(_insert, model=model, slot=slot, fields=fields)


def _insert(state: Any, exp: Experience, *, model: Model, slot: str, fields: Fields) -> Any:
    memory: Herding = checks.slot(state, slot, Herding, "a Herding made by herding.init")
    rows, label = fields(state, exp), replay.labels(exp, memory.seen.shape[0])
    memory = add(memory, state.key, rows, exp.valid, label, partial(_embed, model=model, net=state.model))
    return tree.set(state, {slot: memory})


def _embed(rows: PyTree, *, model: Model, net: ModelState) -> Tensor:
    return features(model, net, rows["x"], task=rows["task"])

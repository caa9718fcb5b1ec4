"""Herding: the exemplar memory of iCaRL (Rebuffi et al., "iCaRL: incremental classifier and representation learning", CVPR 2017,
Algorithms 4 and 5).

The capacity K is split equally over the t classes offered so far, floor(K / t) exemplars each. The exemplars of a class are in
herding order, chosen one after the other so that the mean of those chosen follows the mean of the class:

    p_k = argmin_x | mu - 1/k [ phi(x) + sum_{j < k} phi(p_j) ] |,    mu = mean of phi over the rows of the class

with features phi of unit length. To make room a class keeps its first exemplars. The paper gives each class once; where one comes
again it is herded anew from its exemplars and the new rows together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.checks import positive_int
from cl_func.compiler.operators import opaque
from cl_func.core import Update
from cl_func.experiences import Experience, one_hot
from cl_func.memory import draws, replay, reservoir
from cl_func.models import Model, feature_function, features
from cl_func.tree import PyTree, state

TIE = 1e-5  # scores closer than this are a tie: which of two rows represents their mean best, float32 cannot say


@state
class Herding:
    """A memory of exemplars. The first `filled` rows are filled, in no particular order; the others are 0."""

    data: PyTree  # leaves [capacity, ...]; by default x, y and task
    label: Tensor  # [capacity] int64, the class of each exemplar
    rank: Tensor  # [capacity] int64, its place in the herding order of its class, from 0
    filled: Tensor  # () int64, how many rows are filled
    seen: Tensor  # [C] bool, classes offered so far

    @property
    def capacity(self) -> int:
        """How many rows fit in."""
        return self.label.shape[0]

    @property
    def occupied(self) -> Tensor:
        """Which rows are filled, [capacity] bool."""
        return torch.arange(self.capacity, device=self.filled.device) < self.filled


def init(capacity: int, sample: PyTree, n_classes: int) -> Herding:
    """An empty memory for rows like `sample`: a tree of tensors, each the shape and dtype of one row.

    Raises ValueError for a capacity below the number of classes, or a sample without tensors.
    """
    if positive_int("capacity", capacity) < positive_int("n_classes", n_classes):
        raise ValueError(
            f"capacity: {capacity} rows for {n_classes} classes leave none to some; give a capacity of at least {n_classes}."
        )
    data = reservoir.init(capacity, sample).data
    device = tree.leaves(sample)[0].device
    zeros = torch.zeros(capacity, dtype=torch.int64, device=device)
    seen = torch.zeros(n_classes, dtype=torch.bool, device=device)
    return Herding(data=data, label=zeros, rank=zeros.clone(), filled=torch.tensor(0, device=device), seen=seen)


def unit(rows: Tensor) -> Tensor:
    """Features [n, F] scaled to length 1; 0 stays 0."""
    return torch.nn.functional.normalize(rows, dim=-1)


@opaque("rows, group, steps", like=lambda rows, group, steps: torch.empty_like(group))
def herd(rows: Tensor, group: Tensor, steps: Tensor) -> Tensor:
    """The place of each row in the herding order of its group, int64 [n], or n where it is not among the first `steps`.

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
        left = torch.zeros(len(members), dtype=rows.dtype, device=rows.device)  # minus infinity once a row is chosen
        chosen = torch.zeros_like(mean)
        for k in range(min(int(steps), len(members))):
            # |mean - (phi + chosen) / (k + 1)|^2 falls as this grows:
            score = phi @ ((k + 1) * mean - chosen) - half + left
            pick = (score >= score.max() - TIE).to(torch.int8).argmax()
            rank[members[pick]] = k
            left[pick] = -torch.inf
            chosen = chosen + phi[pick]
    return rank


def add(memory: Herding, rows: PyTree, labels: Tensor, valid: Tensor, embed: Callable[[PyTree], Tensor]) -> Herding:
    """The memory after n rows: leaves [n, ...] in the structure of `memory.data`, labels [n] int64, valid [n] bool.

    `embed(rows [m, ...]) -> [m, F]` gives the features; it is asked for the stored rows and the new ones at once.
    """
    rows = replay.fit(rows, memory.data)
    capacity = memory.capacity
    candidates = tree.map(lambda old, new: torch.cat([old, new]), memory.data, rows)
    label = torch.cat([memory.label, labels])
    there = torch.cat([memory.occupied, valid])
    coming = one_hot(labels, valid, memory.seen.shape[0]).any(0)
    seen = memory.seen | coming
    quota = capacity // seen.sum().clamp(min=1)

    # Only the rows of classes that come now are herded; the others keep the order that they have.
    anew = there & coming[label]
    old = torch.cat([memory.rank, torch.zeros_like(labels)])
    phi = unit(embed(candidates)).detach()
    rank = torch.where(anew, herd(phi, torch.where(anew, label, -1), quota), old)
    keep = there & (rank < quota)
    filled = keep.sum()
    place = torch.argsort((~keep).to(torch.int8), stable=True)[:capacity]
    kept = torch.arange(capacity, device=label.device) < filled

    def pack(values: Tensor) -> Tensor:
        values = values[place]
        return tree.where(kept, values, torch.zeros_like(values))

    return memory.replace(  # type: ignore[attr-defined]
        data=tree.map(pack, candidates), label=pack(label), rank=pack(rank), filled=filled, seen=seen
    )


def insert(model: Model, slot: str = "replay", fields: Callable[[Any, Experience], PyTree] = replay.fields) -> Update:
    """The Update that offers all rows of an experience to the memory in `state.<slot>`, by the model's features as they are now.

    `fields(state, exp)` says what is stored of its n rows, a tree of [n, ...] with x and task in it; by default x, y and task.
    """
    checks.model("model", model)
    checks.path("slot", slot, "replay")
    checks.function("fields", fields, "a function fields(state, exp)")
    feature_function(model)

    def update(agent: Any, exp: Experience) -> Any:
        def embed(rows: Any) -> Tensor:
            return features(model, agent.model, rows["x"], task=rows["task"])

        memory = checks.slot(agent, slot, Herding, "a Herding made by herding.init")
        memory = add(memory, fields(agent, exp), replay.labels(exp, memory.seen.shape[0]), exp.valid, embed)
        return tree.set(agent, {slot: memory})

    return update


def draw(memory: Herding, key: Tensor, n: int) -> tuple[PyTree, Tensor]:
    """n rows drawn uniformly with replacement from the filled ones: (tree of [n, ...], valid [n] bool).

    While fewer than n rows are filled only as many are valid; from an empty memory none is.
    """
    return draws.uniform(memory, key, n)

"""GSS-greedy: keep rows whose gradients point in different directions (Aljundi, Lin, Goujaud & Bengio, "Gradient based sample
selection for online continual learning", NeurIPS 2019, Algorithm 2).

The score of a row says how like its gradient g is to those, G_j, of a few random rows of the memory:
    c = max_j <g, G_j> / (|g| |G_j|) + 1        in [0, 2]; 1 where there is none to compare with
While there is room, the row is stored with its score. Afterwards, if c < 1, a row i of the memory is drawn with probability
proportional to its score C_i, and replaced with probability C_i / (C_i + c).

Gradients are of the cross-entropy of single rows by all parameters, in eval mode. Of linear layers only their two factors are made;
with other parameters n + subset_size whole gradients are held at a time, so offer rows in minibatches. The random rows are drawn
once for the n rows of a batch, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.checks import positive_int
from cl_func.compiler.operators import opaque
from cl_func.core import Update
from cl_func.experiences import Experience
from cl_func.memory import draws, places, replay
from cl_func.memory.draws import uniform as draw
from cl_func.models import Model, ModelState, row_factors
from cl_func.tree import PyTree, state

__all__ = ["GSS", "add", "draw", "init", "insert", "scores"]


@state
class GSS:
    """A replay memory of fixed capacity with a score for each row. The first `filled` rows are filled."""

    data: PyTree  # leaves [capacity, ...]: x, y and task
    score: Tensor  # [capacity] float32, the likeness to other rows when it was stored; 0 where unfilled
    filled: Tensor  # () int64, how many rows are filled

    @property
    def capacity(self) -> int:
        """How many rows fit in."""
        return self.score.shape[0]

    @property
    def occupied(self) -> Tensor:
        """Which rows are filled, [capacity] bool."""
        return torch.arange(self.capacity, device=self.filled.device) < self.filled


def init(capacity: int, sample: PyTree) -> GSS:
    """An empty memory for rows like `sample`, a tree of tensors; errors as in `reservoir.init`."""
    data = places.allocate(capacity, sample)
    device = tree.leaves(data)[0].device
    return GSS(data=data, score=torch.zeros(capacity, device=device), filled=torch.tensor(0, device=device))


def scores(model: Model, net: ModelState, rows: PyTree, others: PyTree, valid: Tensor) -> Tensor:
    """The score c [n] float32 of n rows (x, y, task) against m others, of which those `valid` [m] bool count."""
    likeness = torch.where(valid, cosines(model, net, rows, others), -1)
    highest = torch.where(valid.any(), likeness.amax(1), 0)
    return (highest + 1).clamp(0, 2).to(torch.float32)


def cosines(model: Model, net: ModelState, rows: PyTree, others: PyTree) -> Tensor:
    """The cosines [n, m] of the gradients of n rows and m others."""
    n, both = rows["y"].shape[0], tree.map(lambda a, b: torch.cat([a, b]), rows, others)

    def log_likelihood(logits: Tensor) -> Tensor:
        return -F.cross_entropy(logits, both["y"], reduction="none")[:, None]

    ones = torch.ones_like(both["y"], dtype=tree.leaves(net.params)[0].dtype)[:, None, None]
    factors = row_factors(model, net, both["x"], both["task"], log_likelihood, ones)
    if factors is None:
        directions = _directions(model, net, both)
        return directions[:n] @ directions[n:].T
    # <d h^T, e k^T> = <d, e> <h, k> for each layer, and <d, e> for its bias.
    products, squares = torch.zeros((), device=ones.device), torch.zeros((), device=ones.device)
    for (_, bias), (inputs, grads) in factors.items():
        told, more = grads[:, 0], bias is not None
        products = products + (told[:n] @ told[n:].T) * (inputs[:n] @ inputs[n:].T + more)
        squares = squares + told.square().sum(1) * (inputs.square().sum(1) + more)
    lengths = squares.sqrt().clamp(min=1e-12)
    return products / (lengths[:n, None] * lengths[n:])


def _directions(model: Model, net: ModelState, rows: PyTree) -> Tensor:
    """The gradients of single rows, scaled to length 1: [n, parameters]."""

    def loss(params: PyTree, row: PyTree) -> Tensor:
        logits, _ = model.apply(params, net.buffers, row["x"][None], train=False, task=row["task"][None])
        return F.cross_entropy(logits, row["y"][None])

    grads = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(net.params, rows)
    return F.normalize(torch.cat([g.reshape(g.shape[0], -1) for g in tree.leaves(grads)], dim=1), dim=1)


@opaque("score, valid, which, whether, stored, filled", like=lambda score, *_: torch.empty_like(score, dtype=torch.int64))
def greedy(score: Tensor, valid: Tensor, which: Tensor, whether: Tensor, stored: Tensor, filled: Tensor) -> Tensor:
    """The place that each of n rows takes, offered one by one, int64 [n], or -1 where it is not stored.

    Each replacement moves the odds of the next. score [n] float32, valid [n] bool; which, whether [n] float64: uniform draws of the
    place and of whether its row is replaced; stored [capacity] float32, filled () int64: those of the memory.
    """
    odds, room = stored.cpu().numpy().copy(), int(filled)
    place = np.full(len(score), -1)
    given = (x.cpu().numpy() for x in (score, valid, which, whether))
    for i, (own, there, target, chance) in enumerate(zip(*given, strict=True)):
        if there and room < len(odds):
            place[i] = room
            room += 1
        elif there and own < 1:
            mass = np.cumsum(odds, dtype=np.float64)
            drawn = min(int((mass <= target * mass[-1]).sum()), len(odds) - 1)
            if chance * (odds[drawn] + own) < odds[drawn]:
                place[i] = drawn
        if place[i] >= 0:
            odds[place[i]] = own
    return torch.from_numpy(place).to(score.device)


def add(memory: GSS, key: Tensor, rows: PyTree, valid: Tensor, score: Tensor) -> GSS:
    """Offer n rows with their scores [n] float32 at once: the same as offering the valid ones one by one in order.

    rows: leaves [n, ...] in the structure of `memory.data`; valid: [n] bool.
    """
    rows = replay.fit(rows, memory.data, n=valid.shape[0])
    which, whether = random.uniform(key, (valid.shape[0], 2), torch.float64).unbind(1)
    place = greedy(score, valid, which, whether, memory.score, memory.filled)
    taken = place >= 0
    stays = taken & ~places.overwritten(place, taken, memory.capacity)
    data, stored = places.write((memory.data, memory.score), (rows, score), place, stays)
    filled = (memory.filled + valid.sum()).clamp(max=memory.capacity)
    return memory.replace(data=data, score=stored, filled=filled)  # type: ignore[attr-defined]


def insert(
    model: Model,
    subset_size: int = 10,
    slot: str = "replay",
    fields: Callable[[Any, Experience], PyTree] = replay.fields,
) -> Update:
    """The Update that offers the rows of a minibatch, scored under the present parameters, to the memory in `state.<slot>`.

    They are offered in a random order: the first ones fill a memory with room, and rows may come class by class. `subset_size`
    random rows of the memory are compared with, at most its capacity. `fields(state, exp)` says what is stored of the n rows, a
    tree of [n, ...] with x, y and task at least, which are the default.
    """
    positive_int("subset_size", subset_size)
    checks.model("model", model)
    checks.path("slot", slot, "replay")
    checks.function("fields", fields, "a function fields(state, exp)")

    def update(state: Any, exp: Experience) -> Any:
        key, subset, chance, order = random.split(state.key, 4)
        memory = checks.slot(state, slot, GSS, "a GSS made by gss.init")
        rows = replay.fit(fields(state, exp), memory.data)
        turn = places.shuffled(order, exp.valid)
        rows, valid = tree.map(lambda row: row[turn], (rows, exp.valid))
        others, there = draws.distinct(memory, subset, subset_size)
        score = scores(model, state.model, rows, others, there)
        return tree.set(state.replace(key=key), {slot: add(memory, chance, rows, valid, score)})

    return update

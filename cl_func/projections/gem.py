"""Gradient Episodic Memory (Lopez-Paz & Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017, eq. 8 to 11).

Each past experience k has its own memory, and the loss on none of them may rise. With the gradients g_k on the memories as the rows
of G, and g that of the minibatch:

    g' = argmin |g' - g|^2  subject to  G g' >= 0           solved in the dual, which has one unknown per experience:
    v* = argmin 1/2 v'GG'v + (G g)'v  over  v >= margin,    g' = g + G'v*

and g' = g where no constraint is violated. A margin above 0 favours backward transfer. A step costs one more gradient per memory,
whether it is filled yet or not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.checks import positive_int
from cl_func.core import GradientTransform, Loss, Update, gradient
from cl_func.experiences import Experience
from cl_func.memory import Reservoir, replay, reservoir
from cl_func.models.keyed import aside
from cl_func.optim.hyperparameters import nonnegative
from cl_func.projections import qp
from cl_func.projections.vector import from_vector, to_vector
from cl_func.tree import PyTree, bounded, state

Which = Callable[[Any, Experience], Tensor]


@state
class GEMMemory:
    """T memories of m rows, one per experience, each a reservoir; and the hyperparameter `margin`."""

    data: PyTree  # leaves [T, m, ...]: x, y and task
    seen: Tensor  # [T] int64, rows offered to each so far
    margin: Tensor = bounded(partial(nonnegative, example=0.5))  # () float32, at least 0

    @property
    def occupied(self) -> Tensor:
        """Which rows are filled, [T, m] bool."""
        size = tree.leaves(self.data)[0].shape[1]
        return torch.arange(size, device=self.seen.device) < self.seen[:, None]


def init(n_experiences: int, memory_per_experience: int, sample: PyTree, margin: float = 0.5) -> GEMMemory:
    """Empty memories for rows like `sample`, such as `cl.memory.sample(model)`; errors as of `reservoir.init`.

    Raises ValueError for a size below 1 or a negative margin.
    """
    positive_int("n_experiences", n_experiences)
    positive_int("memory_per_experience", memory_per_experience)
    margin = nonnegative("margin", margin, 0.5)
    lanes = tree.stack([reservoir.init(memory_per_experience, sample)] * n_experiences)
    return GEMMemory(data=lanes.data, seen=lanes.seen, margin=torch.tensor(margin, device=lanes.seen.device))


def by_index(state: Any, exp: Experience) -> Tensor:
    """The memory of an experience by its place in the stream, () int64."""
    return exp.index


def _place(memory: GEMMemory, which: Which, state: Any, exp: Experience) -> Tensor:
    place, n = which(state, exp), memory.seen.shape[0]
    if tree._is_eager_cpu(place) and not 0 <= place < n:
        raise ValueError(
            f"n_experiences: there are memories for the experiences 0..{n - 1}, this one is number {int(place)}; make as many "
            "as the stream has experiences. (The pieces of an online stream count one by one: let `which` tell their memory.)"
        )
    return place.clamp(0, n - 1)  # a traced program cannot look at the value: the last memory takes the rest


def insert(slot: str = "gem", which: Which = by_index) -> Update:
    """The Update that offers all rows of an experience to its own memory in `state.<slot>`.

    `which(state, exp)`, () int64, tells the memory. With `by_index` ValueError is raised for an experience beyond the last memory
    (where values can be looked at; a compiled or vmapped run puts it into the last memory).
    """
    checks.path("slot", slot, "gem")
    checks.function("which", which, "a function which(state, exp) that tells the memory")

    def update(state: Any, exp: Experience) -> Any:
        key, draw = random.split(state.key)
        memory = checks.slot(state, slot, GEMMemory, "a GEMMemory made by gem.init")
        place = _place(memory, which, state, exp)[None]
        one = Reservoir(
            data=tree.map(lambda rows: rows.index_select(0, place)[0], memory.data), seen=memory.seen.index_select(0, place)[0]
        )
        one = reservoir.add(one, draw, replay.fields(state, exp), exp.valid)
        data = tree.map(lambda rows, new: rows.index_copy(0, place, new[None]), memory.data, one.data)
        memory = memory.replace(data=data, seen=memory.seen.index_copy(0, place, one.seen[None]))
        return tree.set(state.replace(key=key), {slot: memory})

    return update


def project(loss: Loss, slot: str = "gem", which: Which = by_index) -> GradientTransform:
    """The GradientTransform under one constraint per filled memory in `state.<slot>`, but the experience's own.

    `loss` runs on all rows of each memory as it does in training (train mode), each with a key of its own. What it changes in the
    state is dropped, for there are T outcomes: batch statistics move in the minibatch's own forward pass only.
    """
    checks.function("loss", loss, "a loss function")
    checks.path("slot", slot, "gem")
    checks.function("which", which, "a function which(state, exp) that tells the memory")

    def transform(grads: PyTree, state: Any, exp: Experience) -> tuple[PyTree, Any]:
        memory = checks.slot(state, slot, GEMMemory, "a GEMMemory made by gem.init")
        n = memory.seen.shape[0]
        key, draw = random.split(state.key)
        state = state.replace(key=key)

        def reference(rows: PyTree, valid: Tensor, key: Tensor) -> Tensor:
            own = state.replace(key=key, model=aside(state.model, key))
            return to_vector(gradient(loss, own, replay.recalled(exp, rows, valid))[0])

        G = torch.func.vmap(reference)(memory.data, memory.occupied, random.split(draw, n))
        others = torch.arange(n, device=memory.seen.device) != _place(memory, which, state, exp)
        projected = closest(to_vector(grads), G, others & (memory.seen > 0), memory.margin)
        return from_vector(projected, grads), state

    return transform


def closest(g: Tensor, G: Tensor, active: Tensor, margin: Tensor) -> Tensor:
    """g' [P] of the equations above for a gradient g [P] and the rows of G [T, P] that are active [T] bool."""
    G = torch.where(active[:, None], G, 0)
    dots = G @ g
    v = qp.solve(G @ G.T, dots, margin).to(g.dtype)
    return torch.where((dots < 0).any(), g + v @ G, g)

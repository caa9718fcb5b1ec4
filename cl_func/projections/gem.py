"""Gradient Episodic Memory (Lopez-Paz & Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017, eq. 8 to 11).

Each past experience k has its own memory, and the loss must not rise on any of them. The paper keeps the last rows of each; here
they are a uniform draw from all of them. With the gradients g_k on the memories as the rows of G, and g that of the minibatch:

    g' = argmin |g' - g|^2  subject to  G g' >= 0           solved in the dual, which has one unknown per experience:
    v* = argmin 1/2 v'GG'v + (G g)'v  over  v >= margin,    g' = g + G'v*

and g' = g if no constraint is violated. A margin above 0 favours backward transfer. A step costs one more gradient for each memory,
filled or not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random, signatures, tree
from cl_func.checks import positive_int
from cl_func.core import GradientTransform, Loss, Update
from cl_func.core.steps import unchecked_gradient
from cl_func.experiences import Experience
from cl_func.memory import Reservoir, replay, reservoir
from cl_func.memory.offering import offer
from cl_func.models.keyed import aside
from cl_func.optim.hyperparameters import nonnegative
from cl_func.projections import qp
from cl_func.projections.vector import from_vector, to_vector
from cl_func.torch_private import is_eager_cpu
from cl_func.tree import PyTree, bounded, describe, state

Which = Callable[[Any, Experience], Tensor]  # (state, exp) -> the number of the memory, () int64


@state
class GEMMemory:
    """T memories of m rows, one per experience, each a reservoir; and the hyperparameter `margin`.

    Not a `cl.memory.Memory`: its leaves have two leading axes.
    """

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
    """The number of an experience's memory: its index in the stream, () int64."""
    return checks.instance("exp", exp, Experience, "an Experience").index


def _memory_index(memory: GEMMemory, which: Which, state: Any, exp: Experience) -> tuple[Tensor, Tensor]:
    """The number of an experience's memory, and whether there is one; where its value can be read, ValueError if there is none."""
    index, n = which(state, exp), memory.seen.shape[0]
    if is_eager_cpu(index) and not 0 <= index < n:
        raise ValueError(
            f"n_experiences: there are memories for the experiences 0..{n - 1}, this one is number {int(index)}; make as many "
            "as the stream has experiences. (Each piece of an online stream counts: let `which` give the memory of a piece.)"
        )
    return index.clamp(0, n - 1), (index >= 0) & (index < n)


def insert(slot: str = "gem", which: Which = by_index) -> Update:
    """The Update that offers all rows of an experience to its own memory in `state.<slot>`.

    `which(state, exp)`, () int64, gives the number of that memory. Raises ValueError for a number beyond the last memory, where it
    can be read. A compiled or vmapped run cannot read it; there the last memory takes the rows, and `project` ends the run.
    """
    checks.path("slot", slot, "gem")
    signatures.function("which", which, 2, "a function which(state, exp) that gives the number of the memory")
    return partial(_insert, slot=slot, which=which)


def _insert(state: Any, exp: Experience, *, slot: str, which: Which) -> Any:
    key, draw_key = random.split(state.key)
    memory: GEMMemory = checks.slot(state, slot, GEMMemory, "a GEMMemory made by gem.init")
    index = _memory_index(memory, which, state, exp)[0][None]
    own = Reservoir(
        data=tree.map(lambda rows: rows.index_select(0, index)[0], memory.data), seen=memory.seen.index_select(0, index)[0]
    )
    own = offer(reservoir.add, own, draw_key, state, exp, replay.fields)
    data = tree.map(lambda rows, new: rows.index_copy(0, index, new[None]), memory.data, own.data)
    memory = tree.replace(memory, data=data, seen=memory.seen.index_copy(0, index, own.seen[None]))
    return tree.set(state.replace(key=key), {slot: memory})


def project(loss: Loss, slot: str = "gem", which: Which = by_index) -> GradientTransform:
    """The GradientTransform under one constraint for each filled memory in `state.<slot>` except the experience's own.

    `loss` runs on all rows of each memory as it does in training (train mode), each with a key of its own. What it changes in the
    state is dropped, for there are T outcomes: batch statistics move in the forward pass of the minibatch only.

    An experience beyond the last memory raises ValueError, or in a compiled or vmapped run gives a gradient of NaN, so that the run
    counts as diverged.
    """
    signatures.loss("loss", loss)
    checks.path("slot", slot, "gem")
    signatures.function("which", which, 2, "a function which(state, exp) that gives the number of the memory")
    return partial(_project, loss=loss, slot=slot, which=which)


def _project(grads: PyTree, state: Any, exp: Experience, *, loss: Loss, slot: str, which: Which) -> tuple[PyTree, Any]:
    memory: GEMMemory = checks.slot(state, slot, GEMMemory, "a GEMMemory made by gem.init")
    n = memory.seen.shape[0]
    key, loss_key = random.split(state.key)
    state = state.replace(key=key)

    def reference(rows: PyTree, valid: Tensor, key: Tensor) -> Tensor:
        own = state.replace(key=key, model=aside(state.model, key))
        return to_vector(unchecked_gradient(loss, own, replay.recalled(exp, rows, valid))[0])

    G = torch.func.vmap(reference)(memory.data, memory.occupied, random.split(loss_key, n))
    index, there = _memory_index(memory, which, state, exp)
    others = torch.arange(n, device=memory.seen.device) != index
    projected = _closest(to_vector(grads), G, others & (memory.seen > 0), memory.margin)
    return from_vector(torch.where(there, projected, torch.nan), grads), state


def closest(g: Tensor, G: Tensor, active: Tensor, margin: Tensor) -> Tensor:
    """g' [P] of the equations above: the vector closest to g [P] under the constraints G [T, P] that are active [T] bool.

    margin: () floating, at least 0. g and G have one floating dtype.
    """
    if checks.tensor("g", g).ndim != 1:
        raise checks.type_error("g", "a floating tensor [P]", g)
    if checks.tensor("g, G", G, dtype=g.dtype, like=g).ndim != 2 or G.shape[1] != g.shape[0]:
        raise ValueError(f"g, G: expected tensors [P] and [T, P], got {describe(g)} and {describe(G)}.")
    checks.tensor("active", active, G.shape[:1], torch.bool, like=g)
    checks.tensor("margin", margin, (), like=g)
    return _closest(g, G, active, margin)


def _closest(g: Tensor, G: Tensor, active: Tensor, margin: Tensor) -> Tensor:
    G = torch.where(active[:, None], G, 0)
    dots = G @ g
    v = qp.solve(G @ G.T, dots, margin).to(g.dtype)
    return torch.where((dots < 0).any(), g + v @ G, g)

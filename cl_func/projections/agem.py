"""A-GEM: the loss on a sample of the memory must not rise (Chaudhry, Ranzato, Rohrbach & Elhoseiny, "Efficient lifelong learning
with A-GEM", ICLR 2019, eq. 10 and 11).

    g' = g - (g . r / r . r) r   where g . r < 0,   g' = g otherwise

with the gradient g of the minibatch and r, the gradient of the same loss on n rows drawn from the memory. So g' . r >= 0, and g' is
the vector closest to g for which that holds.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from cl_func import checks, random, signatures, tree
from cl_func.checks import positive_int
from cl_func.core import GradientTransform, Loss
from cl_func.core.steps import unchecked_gradient
from cl_func.experiences import Experience
from cl_func.memory import draws, replay
from cl_func.memory.kinds import Draw
from cl_func.projections.vector import from_vector, to_vector
from cl_func.tree import PyTree


def project(loss: Loss, n: int, slot: str = "replay", draw: Draw = draws.uniform) -> GradientTransform:
    """The GradientTransform by a reference gradient on n rows drawn from the memory in `state.<slot>`; no change while it is empty.

    `draw(memory, key, n)` returns (rows, valid); rows need x, y and task. `loss` runs on these rows as it does in training (train
    mode), and what it changes in the state stays: batch statistics move towards the replayed rows too, draws move their keys.
    """
    positive_int("n", n)
    signatures.loss("loss", loss)
    checks.path("slot", slot, "replay")
    signatures.function("draw", draw, 3, "a function draw(memory, key, n)")
    return partial(_project, loss=loss, n=n, slot=slot, draw=draw)


def _project(grads: PyTree, state: Any, exp: Experience, *, loss: Loss, n: int, slot: str, draw: Draw) -> tuple[PyTree, Any]:
    key, draw_key = random.split(state.key)
    rows, valid = draw(tree.get(state, slot), draw_key, n)
    reference, state = unchecked_gradient(loss, state.replace(key=key), replay.recalled(exp, rows, valid))
    g, r = to_vector(grads), to_vector(reference)
    dot, square = torch.dot(g, r), torch.dot(r, r)
    violated = valid.any() & (dot < 0) & (square > 0)
    factor = torch.where(violated, dot / torch.where(violated, square, 1), 0)
    return from_vector(torch.where(violated, g - factor * r, g), grads), state

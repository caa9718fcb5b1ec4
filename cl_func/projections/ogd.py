"""Orthogonal Gradient Descent (Farajtabar, Azizan, Mott & Li, "Orthogonal gradient descent for continual learning", AISTATS 2020,
Algorithm 1), the variant OGD-GTL.

After an experience the gradients u of the true label's logit on some of its samples join an orthonormal basis S; while training,
the gradient loses its part in their span, so that to first order these logits stay as they are:

    u <- df_y(x; w)/dw,    S <- S + orthonormalise(u),        g' = g - sum_{s in S} (s . g) s

The basis has a fixed number of rows, zero where not filled; once it is full nothing is added.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.core import GradientTransform, Update, positive
from cl_func.experience import Experience
from cl_func.models import Model
from cl_func.projections.vector import from_vector, to_vector
from cl_func.tree import PyTree, state


@state
class OGD:
    """The slot of OGD."""

    basis: Tensor  # [capacity, P], orthonormal rows, then rows of zeros
    count: Tensor  # () int64, rows filled


def init(params: PyTree, capacity: int) -> OGD:
    """An empty basis for directions in the space of `params`. Raises ValueError for a capacity below 1."""
    checks.tensors("params", params)
    like = to_vector(params)
    basis = like.new_zeros((positive("capacity", capacity), len(like)))
    return OGD(basis=basis, count=torch.tensor(0, device=like.device))


def add(memory: OGD, directions: Tensor) -> OGD:
    """Add the span of directions [n, P] to the basis, in their order as far as there is room.

    Directions of zeros, and those that are combinations of others to the working precision, take no room.
    """
    capacity, n = memory.basis.shape[0], directions.shape[0]
    _, kept = _orthonormal(directions, memory.basis)
    # Again without the dropped ones, which took their remains out of the others; and once more for right angles to the precision.
    rows, _ = _orthonormal(torch.where(kept[:, None], directions, 0), memory.basis)
    rows, kept = _orthonormal(rows, memory.basis)
    rows = rows[torch.argsort(~kept, stable=True)]
    source = torch.arange(capacity, device=directions.device) - memory.count
    filled = (source >= 0) & (source < kept.sum())
    basis = torch.where(filled[:, None], rows[source.clamp(0, n - 1)], memory.basis)
    return memory.replace(basis=basis, count=(memory.count + kept.sum()).clamp(max=capacity))  # type: ignore[attr-defined]


def _orthonormal(rows: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Gram-Schmidt of rows [n, P] against a basis and each other: unit rows or zeros [n, P], and which are no zeros [n] bool.

    By Cholesky's factor of the Gram matrix, which is a fixed number of operations. A small shift of its diagonal keeps the factor
    finite: a row that depends on those before it comes out with a norm near 0 instead of 1, and is dropped.
    """
    square = rows.square().sum(1)
    rows = rows / torch.where(square > 0, square, 1).sqrt()[:, None]
    rows = rows - rows @ basis.T @ basis
    tolerance = 100 * torch.finfo(rows.dtype).eps
    eye = torch.eye(rows.shape[0], dtype=torch.float64, device=rows.device)
    gram = (rows @ rows.T).double() + tolerance * eye
    factor = torch.linalg.cholesky_ex(gram)[0]
    rows = torch.linalg.solve_triangular(factor.to(rows.dtype), rows, upper=False)
    norm = torch.linalg.vector_norm(rows, dim=1)
    kept = norm > 0.5
    return torch.where(kept[:, None], rows / torch.where(kept, norm, 1)[:, None], 0), kept


def store(model: Model, n: int, slot: str = "ogd") -> Update:
    """The Update that adds the true label's logit gradients (in eval mode) of n samples to the basis in `state.<slot>`.

    The samples are drawn without replacement; of an experience with fewer rows all are taken. Compose it after the training.
    """
    checks.model("model", model)
    checks.path("slot", slot, "ogd")
    positive("n", n)

    def update(agent: Any, exp: Experience) -> Any:
        key, draw = random.split(agent.key)
        # Each row draws its own word, so that padding does not change which are drawn.
        words = torch.where(exp.valid, random.bits(draw, len(exp)) >> 1, torch.iinfo(torch.int64).max)
        chosen = torch.argsort(words, stable=True)[:n]
        valid = exp.valid[chosen]

        def logit(params: Any, x: Tensor, y: Tensor, task: Tensor) -> Tensor:
            logits, _ = model.apply(params, agent.model.buffers, x[None], train=False, task=task[None])
            return logits[0].gather(0, y[None])[0]

        def direction(x: Tensor, y: Tensor, task: Tensor) -> Tensor:
            return to_vector(torch.func.grad(logit)(agent.model.params, x, y, task))

        rows = torch.func.vmap(direction)(exp.x[chosen], exp.y[chosen], exp.tasks[chosen])
        memory = add(tree.get(agent, slot), torch.where(valid[:, None], rows, 0))
        return tree.set(agent.replace(key=key), {slot: memory})

    return update


def project(slot: str = "ogd") -> GradientTransform:
    """The GradientTransform that takes the part in the span of the basis in `state.<slot>` out of the gradients."""

    checks.path("slot", slot, "ogd")

    def transform(grads: PyTree, agent: Any, exp: Any) -> tuple[PyTree, Any]:
        basis = tree.get(agent, slot).basis
        g = to_vector(grads)
        g = g - basis.T @ (basis @ g)
        return from_vector(g, grads), agent

    return transform

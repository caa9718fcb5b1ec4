"""Orthogonal Gradient Descent (Farajtabar, Azizan, Mott & Li, "Orthogonal gradient descent for continual learning", AISTATS 2020,
Algorithm 1), the variant OGD-GTL.

After an experience the gradients u of the true label's logit on some of its samples join a set S; while training, the gradient
loses its component in their span, so that to first order these logits stay as they are:

    u <- df_y(x; w)/dw,    S <- S + {u / |u|},        g' = g - S' (S S')^-1 S g

For other targets than class labels the gradients u of every output join S, K of each sample (the paper's OGD-ALL).

The paper keeps an orthonormal basis of the span instead, by Gram-Schmidt. Here the gradients stay as they are, since those of
linear layers are stored by their two factors (`projections.directions`), and beside them a C for which C S is orthonormal: the
inverse of the Cholesky factor of S S', lower triangular, which is Gram-Schmidt in the same order. S has a fixed number of rows,
zero where not filled; once it is full nothing is added.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.checks import positive_int
from cl_func.core import GradientTransform, Update
from cl_func.experiences import Experience, require_kind
from cl_func.memory import buffer, replay
from cl_func.models import Model, ModelState, row_factors
from cl_func.projections.directions import Directions, Outer, dots, gram, mix, scaled
from cl_func.sources.source import Target
from cl_func.tree import PyTree, state


@state
class OGD:
    """The slot of OGD."""

    rows: Directions  # capacity directions of length 1, then zeros
    combine: Tensor  # [capacity, capacity] float64, C: combine @ rows are orthonormal, then zeros
    count: Tensor  # () int64, rows filled


def init(model: Model, net: ModelState, capacity: int) -> OGD:
    """No directions yet, and room for `capacity` of them. Raises ValueError for a capacity below 1.

    Gradients are stored by factors if the model has an `input_shape` and no parameters outside linear layers.
    """
    checks.model("model", model)
    checks.instance("net", net, ModelState, "the ModelState of model.init(key)")
    positive_int("capacity", capacity)
    device = tree.leaves(net.params)[0].device
    one: Directions = dict(net.params)
    if model.input_shape is not None:
        sample = {name: value[None].to(device) for name, value in replay.sample(model).items()}
        one = tree.map(lambda leaf: leaf[0], _gradients(model, net, sample))
    rows = buffer.allocate(capacity, one)
    combine = torch.zeros(capacity, capacity, dtype=torch.float64, device=device)
    return OGD(rows=rows, combine=combine, count=torch.tensor(0, device=device))


def _gradients(model: Model, net: ModelState, rows: PyTree, target: Target = "class") -> Directions:
    """The gradients of the true label's logit, in eval mode, of n rows (x, y, task): n of them.

    For other targets those of every output: n * K, the K of a row one after the other.
    """
    x, y, task = rows["x"], rows["y"], rows["task"]
    require_kind(y, "OGD made for them", target)
    dtype = tree.leaves(net.params)[0].dtype
    if model.input_shape is not None:
        if target == "class":
            is_label = y[:, None] == torch.arange(model.n_classes, device=y.device)
            weights = is_label[:, None].to(dtype)
        else:
            weights = torch.eye(model.n_classes, dtype=dtype, device=y.device).expand(len(x), -1, -1)
        factors = row_factors(model, net, x, task, lambda logits: logits, weights)
        if factors is not None:
            return _by_factors(factors)

    if target != "class":

        def outputs(params: Any, x: Tensor, task: Tensor) -> Tensor:
            return model.apply(params, net.buffers, x[None], train=False, task=task[None])[0][0]

        every = torch.func.vmap(torch.func.jacrev(outputs), in_dims=(None, 0, 0))(net.params, x, task)
        return tree.map(lambda leaf: leaf.flatten(0, 1), every)

    def logit(params: Any, x: Tensor, y: Tensor, task: Tensor) -> Tensor:
        logits, _ = model.apply(params, net.buffers, x[None], train=False, task=task[None])
        return logits[0].gather(0, y[None])[0]

    return torch.func.vmap(torch.func.grad(logit), in_dims=(None, 0, 0, 0))(net.params, x, y, task)


def _by_factors(factors: dict[tuple[str, str | None], tuple[Tensor, Tensor]]) -> Directions:
    directions: Directions = {}
    for (weight, bias), (inputs, output_grads) in factors.items():
        k = output_grads.shape[1]
        left = output_grads.flatten(0, 1)
        directions[weight] = Outer(left=left, right=inputs[:, None].expand(-1, k, -1).flatten(0, 1))
        if bias is not None:
            directions[bias] = left
    return directions


def _add(memory: OGD, directions: Directions) -> OGD:
    """Add n directions, in their order as far as there is room.

    Directions of zeros, and those that are linear combinations of others to the working precision, take no room.
    """
    capacity = memory.combine.shape[0]
    products = gram(tree.map(lambda old, new: torch.cat([old, new]), memory.rows, directions))
    square = _diagonal(products)
    unit = torch.where(square > 0, square, 1).rsqrt()
    kept = (_independent(products * unit * unit[:, None]) & (square > 0))[capacity:]
    index = memory.count + kept.cumsum(0) - 1
    rows = buffer.write(memory.rows, scaled(directions, unit[capacity:]), index, kept & (index < capacity))
    count = (memory.count + kept.sum()).clamp(max=capacity)
    return OGD(rows=rows, combine=_orthonormal(rows, count), count=count)


# A direction is new if at least about this part of its squared length is outside the span of those before it. This also bounds the
# condition number of S S', and with it how much of their span a projection in float32 leaves in a gradient.
NEW = 1e-5


def _diagonal(square: Tensor) -> Tensor:
    """The diagonal of a matrix. (When `Tensor.diagonal` is compiled, torch warns about its own code.)"""
    on_diagonal = torch.eye(square.shape[0], dtype=torch.bool, device=square.device)
    return torch.where(on_diagonal, square, 0).sum(1)


def _independent(products: Tensor) -> Tensor:
    """Which of n directions are linearly independent of those before them, [n] bool, from their inner products [n, n].

    The directions have length 1 or 0. By Gram-Schmidt with a small shift, which keeps it finite: the remainder of a direction that
    depends on those before it has a length near 0 instead of 1. Done twice: because of the shift, one pass removes too little along
    a direction that is only just independent.
    """
    return _gram_schmidt(_gram_schmidt(products)[0])[1]


def _gram_schmidt(products: Tensor) -> tuple[Tensor, Tensor]:
    """The products of the directions made orthogonal, those that depend on others set to 0; and which are kept, [n] bool."""
    eye = torch.eye(products.shape[0], dtype=products.dtype, device=products.device)
    factor = torch.linalg.cholesky_ex(products + NEW * eye)[0]
    combine = torch.linalg.solve_triangular(factor, eye, upper=False)
    products = combine @ products @ combine.T
    square = _diagonal(products)
    kept = square > 0.25
    unit = torch.where(kept, torch.where(kept, square, 1).rsqrt(), 0)
    return products * unit * unit[:, None], kept


def _orthonormal(rows: Directions, count: Tensor) -> Tensor:
    """The lower triangular C [n, n] float64 for which the first `count` rows of C S are orthonormal, the others zero."""
    products = gram(rows)
    eye = torch.eye(products.shape[0], dtype=products.dtype, device=products.device)
    filled = torch.arange(products.shape[0], device=products.device) < count
    factor = torch.linalg.cholesky_ex(products + torch.where(filled, 0, eye))[0]
    return torch.where(filled[:, None], torch.linalg.solve_triangular(factor, eye, upper=False), 0)


def store(model: Model, n: int, slot: str = "ogd", target: Target = "class") -> Update:
    """The Update that adds the true label's logit gradients (in eval mode) of n samples to the directions in `state.<slot>`.

    The samples are drawn without replacement; an experience with fewer rows gives all of them. Compose it after the training.
    target: what kind of targets the data has: for "multilabel" and "regression" each sample gives a direction for every output.
    """
    checks.model("model", model)
    checks.path("slot", slot, "ogd")
    positive_int("n", n)
    checks.choice("target", target, "class", "multilabel", "regression")
    return partial(_store, model=model, n=n, slot=slot, target=target)


def _store(state: Any, exp: Experience, *, model: Model, n: int, slot: str, target: Target) -> Any:
    key, draw_key = random.split(state.key)
    memory: OGD = checks.slot(state, slot, OGD, "an OGD made by ogd.init")
    chosen = buffer.shuffle(draw_key, exp.valid)[:n]
    rows = {"x": exp.x[chosen], "y": exp.y[chosen], "task": exp.tasks[chosen]}
    directions = _gradients(model, state.model, rows, target)
    valid = exp.valid[chosen]
    valid = valid[:, None].expand(-1, tree.leaves(directions)[0].shape[0] // len(valid)).flatten()
    directions = tree.where(valid, directions, tree.map(torch.zeros_like, directions))
    return tree.set(state.replace(key=key), {slot: _add(memory, directions)})


def project(slot: str = "ogd") -> GradientTransform:
    """The GradientTransform that removes from the gradients their component in the span of the directions in `state.<slot>`."""
    checks.path("slot", slot, "ogd")
    return partial(_project, slot=slot)


def _project(grads: dict[str, Tensor], state: Any, exp: Any, *, slot: str) -> tuple[dict[str, Tensor], Any]:
    memory: OGD = checks.slot(state, slot, OGD, "an OGD made by ogd.init")
    combine = memory.combine
    component = mix(memory.rows, combine.T @ (combine @ dots(memory.rows, grads).to(combine.dtype)))
    return tree.map(lambda g, part: g - part.to(g.dtype), grads, {name: component[name] for name in grads}), state

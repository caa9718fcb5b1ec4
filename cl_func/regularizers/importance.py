"""How much each parameter matters to the model's answers: averages over rows of a function of the gradient of each single row.

    fisher        mean_i sum_y w_i(y) * (d log p(y | x_i) / d theta)^2    EWC (Kirkpatrick et al. 2017), RWalk (Chaudhry et al.)
    sensitivity   mean_i | d ||f(x_i)||^2 / d theta |                     MAS (Aljundi et al. 2018)

The square and the absolute value are of one row's gradient, never of a minibatch's, so the batch size does not matter. The model
runs in eval mode. What the choices of labels mean: van de Ven 2025, "On the computation of the Fisher information in continual
learning".
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.checks import positive_int
from cl_func.core import SkipEmpty, compose, minibatches
from cl_func.experiences import Experience
from cl_func.losses.classification import check_classes
from cl_func.models import Model, forward, row_factors
from cl_func.tree import PyTree

Labels = Literal["true", "model", "all"]
DRAW = int.from_bytes(b"labels", "big")  # which child of the state's key the labels are drawn from
ORDER = int.from_bytes(b"order", "big")  # and which one the rows to take the mean over


@dataclass(frozen=True)
class Measure:
    """An importance to take the mean of.

    total: `(state, exp) -> tree like the params`, its sum over the valid rows.
    per_row: how many gradients it holds for each row at a time.
    """

    total: Callable[[Any, Experience], PyTree]
    per_row: int = 1


def row_totals(
    model: Model, agent: Any, exp: Experience, weights: Tensor, of: Callable[[Tensor], Tensor], measure: Callable[[Tensor], Tensor]
) -> PyTree:
    """The sum over rows i and over k of a measure of the gradients by the params of sum_c weights[i, k, c] * of(logits)[i, c].

    measure: of each element by itself, and of a product the product of the measures, as the square and the absolute value are. So
    where a row's gradient is an outer product, its factors are measured and the sum over rows is one matrix product.
    """
    weights = weights * exp.valid[:, None, None]
    factors = row_factors(model, agent.model, exp.x, exp.tasks, of, weights)
    if factors is None:
        return tree.map(lambda g: measure(g).sum((0, 1)), row_gradients(model, agent, exp, weights, of))
    totals = {}
    for (weight, bias), (inputs, grads) in factors.items():
        output_grads = measure(grads).sum(1)  # [n, out]
        totals[weight] = output_grads.T @ measure(inputs)
        if bias is not None:
            totals[bias] = output_grads.sum(0)
    return {name: totals[name] for name in agent.model.params}


def row_gradients(model: Model, agent: Any, exp: Experience, weights: Tensor, of: Callable[[Tensor], Tensor]) -> PyTree:
    """The gradients by the params of sum_c weights[i, k, c] * of(logits)[i, c], for each row i and each k: [n, K, ...]."""
    params, buffers = agent.model.params, agent.model.buffers

    def row(x: Tensor, task: Tensor, weights: Tensor) -> PyTree:
        def outputs(params: PyTree) -> Tensor:
            logits, _ = model.apply(params, buffers, x[None], train=False, task=task[None])
            return of(logits)[0]

        (grads,) = torch.func.vmap(torch.func.vjp(outputs, params)[1])(weights)
        return grads

    return torch.func.vmap(row)(exp.x, exp.tasks, weights)


def fisher(model: Model, labels: Labels = "true") -> Measure:
    """The diagonal of the Fisher information.

    labels: "true", the labels of the rows (the empirical Fisher); "model", one label per row drawn from the model's prediction, an
    unbiased estimate of the Fisher information; "all", its expectation over all C labels, C gradients per row.
    """
    checks.model("model", model)
    checks.choice("labels", labels, "true", "model", "all")

    def total(agent: Any, exp: Experience) -> PyTree:
        logits, _ = forward(model, agent.model.params, agent, exp, train=False)
        check_classes(logits, exp)
        if labels == "all":
            # Each gradient is linear in its weight, so the square root of the probability weighs its square. The clamp keeps the
            # root's own derivative finite for those who differentiate through the training.
            weights = torch.diag_embed(torch.softmax(logits, -1).clamp(min=torch.finfo(logits.dtype).tiny).sqrt())
        else:
            label = exp.y if labels == "true" else _drawn(agent, exp, logits)
            every = torch.arange(logits.shape[-1], device=logits.device)
            weights = (label[:, None] == every).to(logits.dtype)[:, None]
        return row_totals(model, agent, exp, weights, functools.partial(torch.log_softmax, dim=-1), torch.square)

    return Measure(total, model.n_classes if labels == "all" else 1)


def _drawn(agent: Any, exp: Experience, logits: Tensor) -> Tensor:
    """A label for each row [n] int64, from a key of the row's own: it depends neither on the chunk nor on the row's place in it."""
    keys = random.children(_aside(agent, exp, DRAW), exp.rows)
    drawn: Tensor = torch.func.vmap(random.categorical)(keys, logits)
    return drawn


def sensitivity(model: Model) -> Measure:
    """The sensitivity of the squared length of the logits; labels are not looked at."""

    checks.model("model", model)

    def total(agent: Any, exp: Experience) -> PyTree:
        logits, _ = forward(model, agent.model.params, agent, exp, train=False)
        return row_totals(model, agent, exp, 2 * logits[:, None], lambda z: z, torch.abs)

    return Measure(total)


def accumulate(
    measure: Measure,
    slot: str,
    kind: type,
    *,
    begin: Callable[[Any, PyTree], Any],
    add: Callable[[Any, PyTree, PyTree], Any],
    batch_size: int | None = None,
    samples: int | None = None,
) -> Any:
    """The Update that takes the mean of a measure over an experience, chunk by chunk, into `state.<slot>`.

    First `begin(slot, params)`, then for each chunk `add(slot, params, part)`; the parts add up to the mean. What is in the slot is
    of the class `kind`, with a field `rows` () int64, where the number of rows is kept meanwhile. The state's key stays as it is.

    batch_size: how many single-row gradients are held at a time; None: of all rows. In memory batch_size times the parameters
        where some are outside of linear layers, as those of convolutions.
    samples: take the mean over so many rows, drawn anew from all, rounded up to full chunks; None: over every row.
    """
    checks.instance("measure", measure, Measure, "a Measure such as importance.fisher(model)")
    checks.path("slot", slot, "ewc")
    checks.instance("kind", kind, type, "the class of what is in the slot")
    checks.function("begin", begin, "a function begin(slot, params)")
    checks.function("add", add, "a function add(slot, params, part)")
    for name, value in (("batch_size", batch_size), ("samples", samples)):
        if value is not None:
            positive_int(name, value)
    size = min((n for n in (batch_size, samples) if n is not None), default=None)
    if size is not None:
        size = max(1, size // measure.per_row)
    iterations = None if samples is None or size is None else -(-samples // size)

    def start(agent: Any, exp: Experience) -> Any:
        held = checks.slot(agent, slot, kind, f"a slot of {kind.__name__}")
        rows = exp.valid.sum() if iterations is None else torch.full_like(held.rows, iterations * (size or 1))
        return tree.set(agent, {slot: begin(held, agent.model.params).replace(rows=rows)})

    def chunk(agent: Any, exp: Experience) -> Any:
        held = tree.get(agent, slot)
        part = tree.map(lambda total: total / held.rows, measure.total(agent, exp))
        return tree.set(agent, {slot: add(held, agent.model.params, part)})

    chunks = minibatches(chunk, batch_size=size, iterations=iterations, shuffle=False)
    if iterations is not None and size is not None:
        shuffled: Any = minibatches(chunk, batch_size=size, iterations=iterations)
        chunks = tree.replace(chunks, view=_Sampled(shuffled.order, size * iterations))
    return compose(SkipEmpty(start), chunks)


@dataclass(frozen=True)
class _Sampled:
    """So many rows, in one order of all that are valid, over and over; the state's key stays as it is."""

    order: Callable[[Any, Experience], tuple[Any, tuple[Tensor, Tensor]]]
    samples: int

    def __call__(self, agent: Any, exp: Experience) -> tuple[Any, tuple[Tensor, Tensor]]:
        _, (rows, valid) = self.order(agent.replace(key=_aside(agent, exp, ORDER)), exp)
        place = torch.arange(self.samples, device=rows.device) % exp.valid.sum().clamp(min=1)  # those that are valid come first
        return agent, (rows[place], valid[place])


def _aside(agent: Any, exp: Experience, purpose: int) -> Tensor:
    """A key of the experience's own, for one purpose, derived from the state's key, which is not moved on.

    So switching the penalty off gives the very run of the method without it, and the next experience draws anew all the same, even
    where the training draws nothing.
    """
    return random.fold_in(random.fold_in(agent.key, purpose), exp.index)

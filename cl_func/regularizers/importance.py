"""How much each parameter matters to the model's answers: averages over rows of a function of the gradient of each single row.

    fisher        mean_i E_y (d log p(y | x_i) / d theta)^2               EWC (Kirkpatrick et al. 2017), RWalk (Chaudhry et al.)
    sensitivity   mean_i | d ||f(x_i)||^2 / d theta |                     MAS (Aljundi et al. 2018)

The square and the absolute value are of one row's gradient, never of a minibatch's, so the batch size does not matter. The model
runs in eval mode. What the choices of labels mean: van de Ven 2025, "On the computation of the Fisher information in continual
learning".

p(y | x) follows from the targets: the softmax of the outputs f for class labels; for several labels a row, independent Bernoulli
labels of the probabilities s_c = sigmoid(f_c); for regression a Gaussian of variance 1 around f. Then the expectation over y is

    multilabel    sum_c s_c (1 - s_c) (d f_c / d theta)^2
    regression    sum_k (d f_k / d theta)^2

(Pascanu & Bengio, "Revisiting natural gradient for deep networks", ICLR 2014, where these are derived from the same assumptions;
Martens, "New insights and perspectives on the natural gradient method", JMLR 2020). The mean squared error is, for K targets,
2 / K times the negative log-likelihood of that Gaussian, up to a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from cl_func import checks, random, signatures, tree
from cl_func.checks import positive_int
from cl_func.core import SkipEmpty, Update, compose, minibatches
from cl_func.experiences import Experience, require_target
from cl_func.losses import multilabel, regression
from cl_func.losses.classification import check_classes
from cl_func.models import Model, forward, row_factors
from cl_func.sources.source import Target
from cl_func.tree import PyTree

Labels = Literal["true", "model", "all"]
# What is drawn with a key derived from the state's.
_LABELS = int.from_bytes(b"labels", "big")
_ROWS = int.from_bytes(b"order", "big")


@dataclass(frozen=True)
class Measure:
    """A measure of importance, to be averaged over rows.

    total: `(state, exp) -> tree like the params`, its sum over the valid rows.
    per_row: how many gradients it holds for each row at a time.
    """

    total: Callable[[Any, Experience], PyTree]
    per_row: int = 1


def fisher(model: Model, labels: Labels | None = None, target: Target = "class") -> Measure:
    """The diagonal of the Fisher information.

    labels: "true", the labels or targets of the rows (the empirical Fisher); "model", those of one draw per row from the model's
        prediction, an unbiased estimate of the Fisher information; "all", its expectation, with C or K gradients per row. None is
        "true" for class labels. Otherwise it is "all": the gradient at the targets of a row vanishes where they are fitted.
    target: what kind of targets the data has: "class", "multilabel" or "regression".
    """
    checks.model("model", model)
    checks.choice("labels", labels, "true", "model", "all", None)
    checks.choice("target", target, "class", "multilabel", "regression")
    labels = ("true" if target == "class" else "all") if labels is None else labels
    measure = (
        partial(_fisher, model=model, labels=labels)
        if target == "class"
        else partial(_fisher_of_targets, model=model, labels=labels, target=target)
    )
    return Measure(measure, model.n_classes if labels == "all" else 1)


def _fisher_of_targets(agent: Any, exp: Experience, *, model: Model, labels: Labels, target: Target) -> PyTree:
    """By the derivative of log p(y | x) by the outputs, y - E y."""
    outputs, _ = forward(model, agent.model.params, agent, exp, train=False)
    require_target(exp, "this Fisher information", target)
    y = (regression if target == "regression" else multilabel).targets(outputs, exp.y)
    mean = outputs if target == "regression" else outputs.sigmoid()
    if labels == "all":
        variance = torch.ones_like(mean) if target == "regression" else mean * (1 - mean)
        # The square root weights the gradient, as in `_fisher`.
        weights = torch.diag_embed(variance.clamp(min=torch.finfo(mean.dtype).tiny).sqrt())
    else:
        weights = (y - mean if labels == "true" else _drawn_residuals(agent, exp, mean, target))[:, None]
    return _row_totals(model, agent, exp, weights, _outputs, torch.square)


def _outputs(outputs: Tensor) -> Tensor:
    return outputs


def _fisher(agent: Any, exp: Experience, *, model: Model, labels: Labels) -> PyTree:
    logits, _ = forward(model, agent.model.params, agent, exp, train=False)
    check_classes(logits, exp)
    if labels == "all":
        # Each gradient is linear in its weight, so the square root of the probability weights its square. The clamp keeps the
        # root's own derivative finite for those who differentiate through the training.
        weights = torch.diag_embed(torch.softmax(logits, -1).clamp(min=torch.finfo(logits.dtype).tiny).sqrt())
    else:
        label = exp.y if labels == "true" else _drawn_labels(agent, exp, logits)
        classes = torch.arange(logits.shape[-1], device=logits.device)
        weights = (label[:, None] == classes).to(logits.dtype)[:, None]
    return _row_totals(model, agent, exp, weights, partial(torch.log_softmax, dim=-1), torch.square)


def sensitivity(model: Model) -> Measure:
    """The sensitivity of the squared length of the logits; it does not depend on labels."""
    checks.model("model", model)
    return Measure(partial(_sensitivity, model=model))


def _sensitivity(agent: Any, exp: Experience, *, model: Model) -> PyTree:
    logits, _ = forward(model, agent.model.params, agent, exp, train=False)
    return _row_totals(model, agent, exp, 2 * logits[:, None], _outputs, torch.abs)


def _row_totals(
    model: Model,
    agent: Any,
    exp: Experience,
    weights: Tensor,
    outputs: Callable[[Tensor], Tensor],
    measure: Callable[[Tensor], Tensor],
) -> PyTree:
    """The sum over rows i and over k of a measure of the gradients by the params of sum_c weights[i, k, c] * outputs(logits)[i, c].

    measure: elementwise, and multiplicative, measure(a * b) = measure(a) * measure(b), as the square and the absolute value are. So
    where a row's gradient is an outer product, its factors are measured and the sum over rows is one matrix product.
    """
    weights = weights * exp.valid[:, None, None]
    factors = row_factors(model, agent.model, exp.x, exp.tasks, outputs, weights)
    if factors is None:
        return tree.map(lambda g: measure(g).sum((0, 1)), _row_gradients(model, agent, exp, weights, outputs))
    totals = {}
    for (weight, bias), (inputs, grads) in factors.items():
        output_grads = measure(grads).sum(1)  # [n, out]
        totals[weight] = output_grads.T @ measure(inputs)
        if bias is not None:
            totals[bias] = output_grads.sum(0)
    return {name: totals[name] for name in agent.model.params}


def _row_gradients(
    model: Model, agent: Any, exp: Experience, weights: Tensor, outputs: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """The gradients by the params of sum_c weights[i, k, c] * outputs(logits)[i, c], for each row i and each k: [n, K, ...]."""
    params, buffers = agent.model.params, agent.model.buffers

    def row(x: Tensor, task: Tensor, weights: Tensor) -> dict[str, Tensor]:
        def row_outputs(params: dict[str, Tensor]) -> Tensor:
            logits, _ = model.apply(params, buffers, x[None], train=False, task=task[None])
            return outputs(logits)[0]

        (grads,) = torch.func.vmap(torch.func.vjp(row_outputs, params)[1])(weights)
        return grads

    return torch.func.vmap(row)(exp.x, exp.tasks, weights)


def _drawn_labels(agent: Any, exp: Experience, logits: Tensor) -> Tensor:
    """A label for each row, [n] int64, drawn with a key of the row's own: the same in whatever chunk and position the row is."""
    keys = random.children(_derived_key(agent, exp, _LABELS), exp.rows)
    labels: Tensor = torch.func.vmap(random.categorical)(keys, logits)
    return labels


def _drawn_residuals(agent: Any, exp: Experience, mean: Tensor, target: Target) -> Tensor:
    """y - E y, [n, K], for targets drawn from the model's prediction, with a key of each row's own."""
    keys = random.children(_derived_key(agent, exp, _LABELS), exp.rows)
    draw = random.normal if target == "regression" else random.uniform
    drawn: Tensor = torch.func.vmap(partial(draw, shape=mean.shape[-1], dtype=mean.dtype))(keys)
    return drawn if target == "regression" else (drawn < mean).to(mean.dtype) - mean


class _HasRows(Protocol):
    """What a slot has for `accumulate`."""

    @property
    def rows(self) -> Tensor: ...


H = TypeVar("H", bound=_HasRows)


def accumulate(
    measure: Measure,
    slot: str,
    kind: type[H],
    *,
    begin: Callable[[H, PyTree], H],
    add: Callable[[H, PyTree, PyTree], H],
    batch_size: int | None = None,
    samples: int | None = None,
) -> Update:
    """The Update that averages a measure over the rows of an experience, chunk by chunk, into `state.<slot>`.

    It calls `begin(slot, params)` once, then `add(slot, params, part)` for each chunk; the parts sum to the mean. The slot holds a
    state of the class `kind`, whose field `rows` () int64 is set to the number of rows averaged over. The state's key is kept.

    batch_size: how many single-row gradients are held at a time; None: those of all rows. Where some parameters are outside of
        linear layers, such as those of convolutions, this takes batch_size times the memory of the parameters.
    samples: average over so many rows, drawn anew for each experience, rounded up to full chunks; None: over every row.
    Raises TypeError or ValueError for other arguments, and when applied if the slot does not hold a `kind`.
    """
    checks.instance("measure", measure, Measure, "a Measure such as importance.fisher(model)")
    checks.path("slot", slot, "ewc")
    checks.instance("kind", kind, type, "the class of what is in the slot")
    signatures.function("begin", begin, 2, "a function begin(slot, params)")
    signatures.function("add", add, 3, "a function add(slot, params, part)")
    for name, value in (("batch_size", batch_size), ("samples", samples)):
        if value is not None:
            positive_int(name, value)
    size = min((n for n in (batch_size, samples) if n is not None), default=None)
    if size is not None:
        size = max(1, size // measure.per_row)
    chunk = partial(_add_chunk, measure=measure, slot=slot, add=add)
    if size is None or samples is None:
        chunks, rows = minibatches(chunk, batch_size=size, shuffle=False), None
    else:
        iterations = -(-samples // size)
        rows = size * iterations
        shuffled: Any = minibatches(chunk, batch_size=size, iterations=iterations)
        chunks = minibatches(chunk, batch_size=size, iterations=iterations, shuffle=False)
        chunks = tree.replace(chunks, view=_Sampled(shuffled.order, rows))
    return compose(SkipEmpty(partial(_begin, slot=slot, kind=kind, begin=begin, rows=rows)), chunks)


def _begin(agent: Any, exp: Experience, *, slot: str, kind: type[H], begin: Callable[[H, PyTree], H], rows: int | None) -> Any:
    held: H = checks.slot(agent, slot, kind, f"a slot of {kind.__name__}")
    count = exp.valid.sum() if rows is None else torch.full_like(held.rows, rows)
    return tree.set(agent, {slot: tree.replace(begin(held, agent.model.params), rows=count)})


def _add_chunk(agent: Any, exp: Experience, *, measure: Measure, slot: str, add: Callable[[H, PyTree, PyTree], H]) -> Any:
    held: H = tree.get(agent, slot)
    part = tree.map(lambda total: total / held.rows, measure.total(agent, exp))
    return tree.set(agent, {slot: add(held, agent.model.params, part)})


@dataclass(frozen=True)
class _Sampled:
    """So many of the valid rows, in a random order that is repeated if it is too short; the state's key stays as it is."""

    order: Callable[[Any, Experience], tuple[Any, tuple[Tensor, Tensor]]]
    samples: int

    def __call__(self, agent: Any, exp: Experience) -> tuple[Any, tuple[Tensor, Tensor]]:
        _, (rows, valid) = self.order(agent.replace(key=_derived_key(agent, exp, _ROWS)), exp)
        index = torch.arange(self.samples, device=rows.device) % exp.valid.sum().clamp(min=1)  # valid rows come first
        return agent, (rows[index], valid[index])


def _derived_key(agent: Any, exp: Experience, purpose: int) -> Tensor:
    """A key for one purpose in one experience, derived from the state's key, which stays as it is.

    So with the penalty switched off a run is exactly that of the method without it, and each experience draws anew, even where
    the training draws nothing.
    """
    return random.fold_in(random.fold_in(agent.key, purpose), exp.index)

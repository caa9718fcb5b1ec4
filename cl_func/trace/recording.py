"""What records in a trace: a Loss, a GradientTransform, an Update, each a pure function like all others.

values[count mod n] <- value,   count <- count + 1
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, signatures, tree
from cl_func.checks import positive_int
from cl_func.core import GradientTransform, Loss, Update
from cl_func.core.traces import Trace
from cl_func.losses import for_target, row_losses, target_of
from cl_func.torch_private import stop_gradient
from cl_func.tree import PyTree


def init(n: int) -> Trace:
    """An empty trace that holds the last n values, on the CPU.

    n: with `probe`, the most steps between two entries of the history, such as the minibatches of an experience times the epochs;
        without it, the steps of the run.
    Raises TypeError or ValueError for an n that is not an integer of at least 1.
    """
    return Trace(values=torch.zeros(positive_int("n", n)), count=torch.zeros((), dtype=torch.int64))


def add(trace: Trace, value: Tensor) -> Trace:
    """The trace with one more value: a tensor of shape () of any real dtype, which becomes float32. No gradient flows through it.

    Raises TypeError or ValueError for anything else.

    >>> add(init(3), torch.tensor(0.5)).values
    tensor([0.5000, 0.0000, 0.0000])
    """
    checks.instance("trace", trace, Trace, "a Trace made by cl.trace.init")
    if not isinstance(value, Tensor) or value.ndim or value.is_complex():
        raise checks.type_error("value", "a tensor of shape (), one real number", value)
    if value.device != trace.values.device:
        raise ValueError(f"value: on {value.device}, but the trace is on {trace.values.device}; move the state with cl.tree.to.")
    index = (trace.count % trace.values.shape[0]).reshape(1)
    values = trace.values.index_put((index,), stop_gradient(value).to(trace.values.dtype).reshape(1))
    return tree.replace(trace, values=values, count=trace.count + 1)


def _record(state: Any, slot: str, value: Tensor) -> Any:
    found: Trace = checks.slot(state, slot, Trace, "a Trace made by cl.trace.init")
    return tree.set(state, {slot: add(found, value)})


def loss(loss: Loss, slot: str = "trace") -> Loss:
    """The same Loss, with each of its values recorded in the trace in `state.<slot>`.

    Within other losses it records its own part: `total(loss(task, "task"), loss(distillation, "distillation"))`. Each call is
    recorded: a method that takes the gradient twice in a step, as A-GEM does, records two values. It is for the targets
    that the loss is for. A minibatch without a valid row is skipped as a whole, and records nothing.

    Raises TypeError or ValueError for other arguments, and, when applied, for a slot without a trace.
    """
    signatures.loss("loss", loss)
    made = partial(_loss, loss=loss, slot=checks.path("slot", slot, "losses"))
    try:
        rows = row_losses(loss)
    except ValueError:  # it does not say what it is on each row
        rows = None
    return for_target(made, target_of(loss), rows)


def _loss(params: PyTree, state: Any, exp: Any, *, loss: Loss, slot: str) -> tuple[Tensor, Any]:
    value, state = loss(params, state, exp)
    return value, _record(state, slot, value)


def grad_norm(slot: str = "trace") -> GradientTransform:
    """The GradientTransform that records the joint L2 norm of all gradients in `state.<slot>`, and passes them on unchanged.

    Where it stands among the transforms says which gradients: `train_step(loss, opt, grad_norm("norms"), clip_by_global_norm(1.0))`
    records the norm before clipping. Raises as `loss` does.
    """
    return partial(_grad_norm, slot=checks.path("slot", slot, "norms"))


def _grad_norm(grads: PyTree, state: Any, exp: Any, *, slot: str) -> tuple[PyTree, Any]:
    norms = [torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)) for g in tree.leaves(grads)]
    return grads, _record(state, slot, torch.linalg.vector_norm(torch.stack(norms)))


def record(function: Callable[[Any, Any], Tensor], slot: str = "trace") -> Update:
    """The Update that records `function(state, exp)`, a tensor of shape (), in the trace in `state.<slot>`.

    Where it stands says how often: within `minibatches` it records at each step, beside it once an experience:
    `minibatches(compose(step, record(rate, "rates")), batch_size=10)`. Raises as `loss` does, and for a function that gives
    anything else.
    """
    signatures.function("function", function, 2, "a function (state, exp) -> a tensor of shape ()")
    return partial(_record_value, function=function, slot=checks.path("slot", slot, "rates"))


def _record_value(state: Any, exp: Any, *, function: Callable[[Any, Any], Tensor], slot: str) -> Any:
    value = function(state, exp)
    if not isinstance(value, Tensor) or value.ndim:
        raise checks.type_error("function", "it to give a tensor of shape (), one number", value)
    return _record(state, slot, value)

"""Losses for regression: the mean over the valid rows of a distance between the outputs f(x_i) [K] and the targets y_i [K].

    mean squared error    L = mean_i 1/K sum_k (f(x_i)_k - y_ik)^2
    Huber                 L = mean_i 1/K sum_k h(f(x_i)_k - y_ik)

with h(e) = e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2) (Huber, "Robust estimation of a location parameter", Annals of
Mathematical Statistics 1964). The outputs are what a model calls its logits, so a model for K targets is built with n_classes=K.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cl_func import checks
from cl_func.experiences import Experience, require_kind
from cl_func.losses.classification import weighted_mean
from cl_func.losses.targets import TargetLoss
from cl_func.models import Model, forward
from cl_func.tree import PyTree, describe


def targets(outputs: Tensor, y: Tensor) -> Tensor:
    """The targets y [n] or [n, K] in the shape of the outputs [n, K]; targets [n] are those of one output.

    Raises ValueError for targets of another kind, another number of them, or another dtype.
    """
    require_kind(y, "a loss for regression", "regression")
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or not outputs.is_floating_point():
        raise checks.type_error("outputs", "a floating tensor [n, K]", outputs)
    y = y if y.ndim == 2 else y[:, None]
    if y.shape != outputs.shape:
        raise ValueError(
            f"n_classes: the model has {outputs.shape[-1]} outputs for each row, the data has {y.shape[-1]} targets; "
            f"build the model with n_classes={y.shape[-1]}."
        )
    if y.dtype != outputs.dtype:
        dtype = str(outputs.dtype).removeprefix("torch.")
        raise ValueError(
            f"y: the model gives {describe(outputs)}, the targets are {describe(y)}; convert them to one dtype: "
            f"y.to(torch.{dtype}), or in numpy y.astype(numpy.{dtype})."
        )
    return y


def squared_errors(outputs: Tensor, y: Tensor) -> Tensor:
    """The squared error of each row [n], averaged over its targets, from the outputs [n, K]; errors as of `targets`."""
    return (outputs - targets(outputs, y)).square().mean(-1)


def mean_squared_error(model: Model) -> TargetLoss:
    """The Loss for regression on a minibatch: the mean squared error over the valid rows."""
    checks.model("model", model)
    return TargetLoss(partial(_mean_squared_error, model=model), "regression", squared_errors)


def _mean_squared_error(params: PyTree, state: Any, exp: Experience, *, model: Model) -> tuple[Tensor, Any]:
    outputs, state = forward(model, params, state, exp)
    return weighted_mean(squared_errors(outputs, exp.y), exp.valid), state


def huber(model: Model, delta: float = 1.0) -> TargetLoss:
    """The Loss for regression that grows linearly from errors of `delta` on, in units of the targets, so outliers count less."""
    checks.model("model", model)
    delta = checks.number("delta", delta, 0)
    return TargetLoss(partial(_huber, model=model, delta=delta), "regression", partial(_huber_rows, delta=delta))


def _huber_rows(outputs: Tensor, y: Tensor, *, delta: float) -> Tensor:
    return F.huber_loss(outputs, targets(outputs, y), reduction="none", delta=delta).mean(-1)


def _huber(params: PyTree, state: Any, exp: Experience, *, model: Model, delta: float) -> tuple[Tensor, Any]:
    outputs, state = forward(model, params, state, exp)
    return weighted_mean(_huber_rows(outputs, exp.y, delta=delta), exp.valid), state

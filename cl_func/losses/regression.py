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
from cl_func.experiences import Experience, require_target
from cl_func.losses.classification import weighted_mean
from cl_func.losses.targets import TargetLoss
from cl_func.models import Model, forward
from cl_func.tree import PyTree, describe


def targets(outputs: Tensor, exp: Experience) -> Tensor:
    """The targets of an experience in the shape of the outputs [n, K]; targets [n] are those of one output.

    Raises ValueError for targets of another kind, another number of them, or another dtype.
    """
    require_target(exp, "a loss for regression", "regression")
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or not outputs.is_floating_point():
        raise checks.type_error("outputs", "a floating tensor [n, K]", outputs)
    y = exp.y if exp.y.ndim == 2 else exp.y[:, None]
    if y.shape != outputs.shape:
        raise ValueError(
            f"n_classes: the model has {outputs.shape[-1]} outputs for each row, the data has {y.shape[-1]} targets; "
            f"build the model with n_classes={y.shape[-1]}."
        )
    if y.dtype != outputs.dtype:
        raise ValueError(f"y: the model gives {describe(outputs)}, the targets are {describe(y)}; convert them to one dtype.")
    return y


def squared_errors(outputs: Tensor, exp: Experience) -> Tensor:
    """The squared error of each row [n], averaged over its targets, from the outputs [n, K]; errors as of `targets`."""
    return (outputs - targets(outputs, exp)).square().mean(-1)


def mean_squared_error(model: Model) -> TargetLoss:
    """The Loss for regression on a minibatch: the mean squared error over the valid rows."""
    checks.model("model", model)
    return TargetLoss(partial(_mean_squared_error, model=model), "regression")


def _mean_squared_error(params: PyTree, state: Any, exp: Experience, *, model: Model) -> tuple[Tensor, Any]:
    outputs, state = forward(model, params, state, exp)
    return weighted_mean(squared_errors(outputs, exp), exp.valid), state


def huber(model: Model, delta: float = 1.0) -> TargetLoss:
    """The Loss for regression that grows linearly from errors of `delta` on, in units of the targets, so outliers count less."""
    checks.model("model", model)
    return TargetLoss(partial(_huber, model=model, delta=checks.number("delta", delta, 0)), "regression")


def _huber(params: PyTree, state: Any, exp: Experience, *, model: Model, delta: float) -> tuple[Tensor, Any]:
    outputs, state = forward(model, params, state, exp)
    errors = F.huber_loss(outputs, targets(outputs, exp), reduction="none", delta=delta).mean(-1)
    return weighted_mean(errors, exp.valid), state

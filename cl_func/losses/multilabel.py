"""The loss for multi-label targets: each of the C outputs is a binary classifier of its own.

L = mean_i 1/C sum_c BCE(sigmoid(f(x_i)_c), y_ic)      y_ic in {0, 1}
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
from cl_func.tree import PyTree


def targets(logits: Tensor, y: Tensor) -> Tensor:
    """The labels y [n, C] in the dtype of the logits [n, C]; ValueError for targets of another kind or another number of labels."""
    require_kind(y, "binary cross-entropy", "multilabel")
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.is_floating_point():
        raise checks.type_error("logits", "a floating tensor [n, C]", logits)
    if y.shape != logits.shape:
        raise ValueError(
            f"n_classes: the model has {logits.shape[-1]} outputs for each row, the data has {y.shape[-1]} labels; "
            f"build the model with n_classes={y.shape[-1]}."
        )
    return y.to(logits.dtype)


def row_losses(logits: Tensor, y: Tensor) -> Tensor:
    """The binary cross-entropy of each row [n], averaged over its C labels, in nats, from logits and labels y [n, C].

    Errors as of `targets`.
    """
    return F.binary_cross_entropy_with_logits(logits, targets(logits, y), reduction="none").mean(-1)


def binary_cross_entropy(model: Model) -> TargetLoss:
    """The Loss for multi-label targets on a minibatch: the mean binary cross-entropy over the valid rows and all labels."""
    checks.model("model", model)
    return TargetLoss(partial(_binary_cross_entropy, model=model), "multilabel", row_losses)


def _binary_cross_entropy(params: PyTree, state: Any, exp: Experience, *, model: Model) -> tuple[Tensor, Any]:
    logits, state = forward(model, params, state, exp)
    return weighted_mean(row_losses(logits, exp.y), exp.valid), state

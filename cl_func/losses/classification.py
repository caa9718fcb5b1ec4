"""Cross-entropy over the valid rows of a minibatch, over all classes or a part of them.

    L = sum_i valid_i * (-log softmax(z_i)[y_i]) / sum_i valid_i

Classes left out by a mask get no probability and no gradient (the "labels trick" of Zeno et al. 2018).
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_func import checks, tree
from cl_func.core import Loss, Update
from cl_func.experiences import Experience, require_target
from cl_func.models import Model, forward, mask_logits
from cl_func.torch_private import is_eager_cpu
from cl_func.tree import PyTree, describe

Mask = Literal["experience", "seen"] | None


def weighted_mean(values: Tensor, valid: Tensor) -> Tensor:
    """The mean of the values [n] of valid rows, (); 0 if there are none."""
    if not isinstance(values, Tensor) or values.ndim != 1 or not values.is_floating_point():
        raise checks.type_error("values", "a floating tensor [n], one value per row", values)
    checks.tensor("values, valid", valid, values.shape, torch.bool, like=values)
    if is_eager_cpu(valid) and valid.all():
        return values.sum() / max(len(values), 1)
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)


def check_classes(logits: Tensor, exp: Experience) -> None:
    """Raise ValueError if the experience has more classes than there are logits [n, C]: its labels would be out of range."""
    if not isinstance(logits, Tensor) or logits.ndim == 0 or not logits.is_floating_point():
        raise checks.type_error("logits", "a floating tensor [n, C]", logits)
    require_target(exp, "cross-entropy, the default loss,", "class")
    outputs, n_classes = logits.shape[-1], exp.classes.shape[-1]
    if n_classes > outputs:
        # In words, not by a look at the labels, which may be traced.
        from_1 = f" If labels go from 1 to {outputs}, subtract 1 (y - 1) instead." if n_classes == outputs + 1 else ""
        raise ValueError(
            f"n_classes: the model has {outputs} outputs, the data has {n_classes} classes; "
            f"labels would be out of range. Build the model with n_classes={n_classes}.{from_1}"
        )


def masked_cross_entropy(logits: Tensor, exp: Experience, classes: Tensor | None = None) -> Tensor:
    """The mean cross-entropy, (), of logits [n, C] over the valid rows; of all classes, or of those in a mask [C] or [n, C] bool.

    `cross_entropy(model)` computes it; this is for a loss that has the logits already.
    """
    checks.instance("exp", exp, Experience, "an Experience")
    check_classes(logits, exp)
    if logits.shape[:-1] != exp.rows.shape:
        raise ValueError(f"logits: expected one row for each of the {len(exp)} rows of exp, got {describe(logits)}.")
    if classes is not None:
        logits = mask_logits(logits, classes)
    return weighted_mean(F.cross_entropy(logits, exp.y, reduction="none"), exp.valid)


def cross_entropy(model: Model, mask: Mask = None, slot: str = "seen") -> Loss:
    """The Loss of a classifier on a minibatch.

    mask: None, all classes compete; "experience", only the classes of the experience (with replayed rows, theirs too); "seen", only
        those in `state.<slot>` [C] bool, which `mark_seen(slot)` keeps.
    """
    checks.model("model", model)
    checks.choice("mask", mask, None, "experience", "seen")
    checks.path("slot", slot, "seen")
    return partial(_cross_entropy, model=model, mask=mask, slot=slot)


def _cross_entropy(params: PyTree, state: Any, exp: Experience, *, model: Model, mask: Mask, slot: str) -> tuple[Tensor, Any]:
    logits, state = forward(model, params, state, exp)
    return masked_cross_entropy(logits, exp, competing(state, exp, mask, slot)), state


def competing(state: Any, exp: Experience, mask: Mask, slot: str) -> Tensor | None:
    """The classes [C] bool that compete under a mask of `cross_entropy`; None if all do."""
    if mask == "seen":
        return _seen(state, slot, exp)
    return exp.classes if mask == "experience" else None


def _seen(state: Any, slot: str, exp: Experience) -> Tensor:
    return checks.tensor(f"slot {slot!r}", tree.get(state, slot), exp.classes.shape, torch.bool)


def mark_seen(slot: str = "seen") -> Update:
    """The Update that adds the experience's classes to the mask `state.<slot>` [C] bool; compose it before the training."""
    checks.path("slot", slot, "seen")
    return partial(_mark_seen, slot=slot)


def _mark_seen(state: Any, exp: Experience, *, slot: str) -> Any:
    require_target(exp, "the mask of the classes seen", "class")
    return tree.set(state, {slot: _seen(state, slot, exp) | exp.classes})

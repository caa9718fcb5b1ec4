"""What kind of targets a loss is for, class labels unless it says otherwise, and what it is on each row.

A method that stores rows must know what a target looks like before it sees one, and one that compares rows must know the loss of
each. So the losses for other targets are `TargetLoss`, and a loss of one's own becomes one by `for_target`.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from torch import Tensor

from cl_func import checks, signatures
from cl_func.core import Loss
from cl_func.losses.classification import _cross_entropy
from cl_func.memory.gss import cross_entropies
from cl_func.memory.kinds import RowLosses
from cl_func.sources.source import Target
from cl_func.tree import PyTree


@dataclasses.dataclass(frozen=True)
class TargetLoss:
    """A Loss, the kind of targets that it is for, and what it is on each row, if it says so; made by `for_target`."""

    loss: Loss
    target: Target
    rows: RowLosses | None = None

    def __call__(self, params: PyTree, state: Any, exp: Any) -> tuple[Tensor, Any]:
        return self.loss(params, state, exp)


def for_target(loss: Loss, target: Target, rows: RowLosses | None = None) -> TargetLoss:
    """The same loss, said to be for targets of a kind: "class", "multilabel" or "regression".

    rows: `(outputs [n, K], y [n, ...]) -> [n]`, the loss of each row from the model's outputs, for methods that compare rows or
        need several losses of one forward pass: LwF, DER, MIR, GSS. The loss itself should be its mean over the valid rows.

    Raises TypeError for what is no function, ValueError for another kind.
    """
    signatures.loss("loss", loss)
    if rows is not None:
        signatures.function("rows", rows, 2, "a function (outputs [n, K], y [n, ...]) -> [n]")
    return TargetLoss(loss, checks.choice("target", target, "class", "multilabel", "regression"), rows)


def target_of(loss: Loss | None) -> Target:
    """The kind of targets that a loss is for: "class" for one that does not say, and for None."""
    if loss is not None:
        signatures.loss("loss", loss, "None or a Loss, a function (params, state, exp) -> (scalar, state)")
    return loss.target if isinstance(loss, TargetLoss) else "class"


def row_losses(loss: Loss | None) -> RowLosses:
    """The function `(outputs [n, K], y [n, ...]) -> [n]` of the loss of each row; None is the cross-entropy over all classes.

    Raises ValueError for a loss that does not say what it is on each row.
    """
    if loss is None or (isinstance(loss, partial) and loss.func is _cross_entropy and loss.keywords["mask"] is None):
        return cross_entropies
    rows = getattr(signatures.loss("loss", loss), "rows", None)
    if rows is None:
        raise ValueError(
            "loss: this method needs the loss of each row, which this one does not give; "
            "give cl.losses.for_target(loss, target, rows=...) with a function (outputs [n, K], y [n, ...]) -> [n]."
        )
    found: RowLosses = checks.function("loss: rows", rows, "a function (outputs [n, K], y [n, ...]) -> [n]")
    return found

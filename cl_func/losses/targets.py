"""What kind of targets a loss is for: class labels, unless it says otherwise.

A method that stores rows must know what a target looks like before it sees one. So the losses for other targets are `TargetLoss`,
and a loss of one's own becomes one by `for_target(loss, "regression")`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from cl_func import checks
from cl_func.core import Loss
from cl_func.experiences import Target
from cl_func.tree import PyTree


@dataclasses.dataclass(frozen=True)
class TargetLoss:
    """A Loss and the kind of targets that it is for; made by `for_target`."""

    loss: Loss
    target: Target

    def __call__(self, params: PyTree, state: Any, exp: Any) -> tuple[Tensor, Any]:
        return self.loss(params, state, exp)


def for_target(loss: Loss, target: Target) -> TargetLoss:
    """The same loss, said to be for targets of a kind: "class", "multilabel" or "regression".

    Raises TypeError for what is no function, ValueError for another kind.
    """
    checks.function("loss", loss, "a loss function (params, state, exp) -> (scalar, state)")
    return TargetLoss(loss, checks.choice("target", target, "class", "multilabel", "regression"))


def target_of(loss: Loss) -> Target:
    """The kind of targets that a loss is for: "class" for one that does not say."""
    return loss.target if isinstance(loss, TargetLoss) else "class"

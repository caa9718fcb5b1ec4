"""A training step that also accumulates the path integral of the task's gradient: how much each parameter has lowered the loss.

    path <- path - g * (change of theta)        g: the gradient of the task loss alone, without the penalty

To first order, the path summed over all parameters is the decrease of the loss (Zenke, Poole & Ganguli 2017, eq. 2 and 3). SI and
RWalk turn it into importances.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, core, tree
from cl_func.core import GradientTransform, Loss, Optimizer
from cl_func.core.steps import unchecked_gradient
from cl_func.experiences import Experience
from cl_func.regularizers import quadratic
from cl_func.tree import PyTree


@dataclasses.dataclass(frozen=True)
class PathStep(core.TrainStep):
    """One gradient step that also updates the path; made by `train_step`."""

    slot: str
    beside: Loss  # what else is minimised, whose gradient is no part of the path: the penalty

    def __call__(self, agent: Any, exp: Experience) -> Any:
        task_grads, agent = unchecked_gradient(self.loss, agent, exp)
        other_grads, agent = unchecked_gradient(self.beside, agent, exp)
        agent, updates = self.apply_gradients(tree.map(torch.add, task_grads, other_grads), agent, exp)
        held = tree.get(agent, self.slot)
        if not hasattr(held, "path"):
            raise checks.type_error(f"slot {self.slot!r}", "an SI or an RWalk, which keep a path", held)
        path = tree.map(lambda path, g, change: path - g * change, held.path, task_grads, updates)
        return tree.set(agent, {self.slot: tree.replace(held, path=path)})


def _total_loss(step: PathStep) -> Loss:
    """The Loss of a step with the value of all that is minimised, and the gradient of the task's loss alone."""
    return partial(_total, loss=step.loss, beside=step.beside)


def _total(params: PyTree, agent: Any, exp: Experience, *, loss: Loss, beside: Loss) -> tuple[Tensor, Any]:
    value, agent = loss(params, agent, exp)
    return value + beside(tree.map(torch.Tensor.detach, params), agent, exp)[0], agent


def train_step(loss: Loss, optimizer: Optimizer, *transforms: GradientTransform, slot: str) -> PathStep:
    """As `cl.train_step`, on a loss plus the quadratic penalty in `state.<slot>`, whose field `path` is updated too.

    loss: the task's alone, without the penalty. The transforms are given the gradient of both.
    """
    plain = core.train_step(loss, optimizer, *transforms)
    held = checks.path("slot", slot, "si")
    return PathStep(plain.loss, plain.optimizer, plain.transforms, held, quadratic.loss(held))

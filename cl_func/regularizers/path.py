"""A training step that also keeps the path integral of the task's gradient: how much each parameter has lowered the loss.

    path <- path - g * (change of theta)        g: the gradient of the task loss alone, without the penalty

To first order, the sum of the path over all parameters is by how much the loss fell (Zenke, Poole & Ganguli 2017, eq. 2 and 3). SI
and RWalk turn it into importances.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from cl_func import checks, core, tree
from cl_func.core import GradientTransform, Loss, Optimizer
from cl_func.experiences import Experience
from cl_func.regularizers import quadratic


@dataclasses.dataclass(frozen=True)
class PathStep(core.TrainStep):
    """One gradient step that moves the path on; made by `train_step`."""

    slot: str

    def __call__(self, agent: Any, exp: Experience) -> Any:
        task, agent = core.gradient(self.loss, agent, exp)
        pull, agent = core.gradient(quadratic.loss(self.slot), agent, exp)
        agent, updates = self.apply_gradients(tree.map(torch.add, task, pull), agent, exp)
        held = tree.get(agent, self.slot)
        if not hasattr(held, "path"):
            raise checks.type_error(f"slot {self.slot!r}", "an SI or an RWalk, which keep a path", held)
        path = tree.map(lambda sum, g, change: sum - g * change, held.path, task, updates)
        return tree.set(agent, {self.slot: held.replace(path=path)})


def train_step(loss: Loss, optimizer: Optimizer, *transforms: GradientTransform, slot: str) -> PathStep:
    """As `cl.train_step`, following the loss and the quadratic penalty in `state.<slot>`, whose field `path` is moved on.

    The loss given is the task's; the transforms see the gradient of both.
    """
    plain = core.train_step(loss, optimizer, *transforms)
    return PathStep(plain.loss, plain.optimizer, plain.transforms, checks.path("slot", slot, "si"))

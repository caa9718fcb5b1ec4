"""A training step that also keeps the path integral of the task's gradient: how much each parameter has lowered the loss.

    path <- path - g * (change of theta)        g: the gradient of the task loss alone, without the penalty

To first order, the sum of the path over all parameters is by how much the loss fell (Zenke, Poole & Ganguli 2017, eq. 2 and 3). SI
and RWalk turn it into importances.
"""

from __future__ import annotations

from typing import Any

import torch

from cl_func import core, tree
from cl_func.core import GradientTransform, Loss, Optimizer, Update
from cl_func.experience import Experience
from cl_func.regularizers import quadratic


def train_step(loss: Loss, optimizer: Optimizer, *transforms: GradientTransform, slot: str) -> Update:
    """As `cl.train_step`, following the loss and the quadratic penalty in `state.<slot>`, whose field `path` is moved on.

    The loss given is the task's; the transforms see the gradient of both.
    """
    core.train_step(loss, optimizer, *transforms)  # for its checks
    penalty = quadratic.loss(slot)

    def step(agent: Any, exp: Experience) -> Any:
        task, agent = core.gradient(loss, agent, exp)
        pull, agent = core.gradient(penalty, agent, exp)
        grads = tree.map(torch.add, task, pull)
        for transform in transforms:
            grads, agent = transform(grads, agent, exp)
        updates, opt = optimizer.update(grads, agent.opt, agent.model.params)
        held = tree.get(agent, slot)
        path = tree.map(lambda sum, g, change: sum - g * change, held.path, task, updates)
        params = tree.map(torch.add, agent.model.params, updates)
        agent = agent.replace(model=agent.model.replace(params=params), opt=opt)
        return tree.set(agent, {slot: held.replace(path=path)})

    return step

"""Synaptic Intelligence (Zenke, Poole & Ganguli, "Continual learning through synaptic intelligence", ICML 2017, eq. 3 to 5).

    path_k <- path_k - g_k * (change of theta_k)                                   at each step; g of the task loss alone
    importance_k <- max(0, importance_k + path_k / ((theta_k - anchor_k)^2 + damping)),  anchor <- theta,  path <- 0
                                                                                   after each experience
    L = strength / 2 * sum_k importance_k * (p_k - anchor_k)^2

The paper writes c for strength / 2 and xi for the damping. A parameter that has moved against its gradient can have a negative
path; importances are clipped at 0, as in the authors' code.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.core import SkipEmpty, Update
from cl_func.experiences import Experience
from cl_func.optim.hyperparameters import nonnegative
from cl_func.regularizers import quadratic
from cl_func.regularizers.quadratic import Quadratic, _scalar
from cl_func.tree import PyTree, bounded, state


@state
class SI(Quadratic):
    """The slot of SI; `strength` and `damping` are hyperparameters. `path.train_step` moves `path` on."""

    path: PyTree  # like the params, path integral since the anchor
    damping: Tensor = bounded(partial(nonnegative, example=0.1, positive=True))  # () float32, above 0


def init(params: PyTree, strength: float, damping: float = 0.1) -> SI:
    """A slot without importances; the first path begins at its anchor, `params`."""
    return SI(
        **quadratic.fields(params, strength),
        path=tree.map(torch.zeros_like, params),
        damping=_scalar(params, nonnegative("damping", damping, 0.1, positive=True)),
    )


def consolidate(slot: str = "si") -> Update:
    """The Update that turns the path of an experience into importances; compose it after the training."""
    checks.path("slot", slot, "si")
    return SkipEmpty(partial(_consolidate, slot=slot))


def _consolidate(agent: Any, exp: Experience, *, slot: str) -> Any:
    si: SI = checks.slot(agent, slot, SI, "an SI made by si.init")
    params = agent.model.params

    def grown(importance: Tensor, path: Tensor, p: Tensor, anchor: Tensor) -> Tensor:
        return torch.relu(importance + path / ((p - anchor).square() + si.damping))

    importance = tree.map(grown, si.importance, si.path, params, si.anchor)
    path = tree.map(torch.zeros_like, si.path)
    return tree.set(agent, {slot: tree.replace(si, importance=importance, anchor=params, path=path)})

"""L2 Init: a penalty on how far the parameters are from where they began.

    L(p) = strength / 2 * sum_k (p_k - initial_k)^2

Parameters that the loss no longer depends on drift back to their initial values, from which they learn well. Kumar, Marklund & Van
Roy, "Maintaining plasticity in continual learning via regenerative regularization", CoLLAs 2024; the 1/2 is that of their code.
Towards 0 instead it is L2 regularisation, the `weight_decay` of the optimisers.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.experiences import Experience
from cl_func.models.model import ModelState
from cl_func.optim.hyperparameters import nonnegative
from cl_func.tree import bounded, state


@state
class Initial:
    """The slot of L2 Init; `strength` is a hyperparameter."""

    strength: Tensor = bounded(partial(nonnegative, example=1e-3))  # () float32, at least 0
    initial: dict[str, Tensor]  # like the params


@dataclasses.dataclass(frozen=True)
class L2Init:
    """The Loss made by `l2_init`, and the number that a new slot starts from."""

    strength: float
    slot: str

    def init(self, net: ModelState) -> Initial:
        """The slot that holds the parameters of a network as the initial ones."""
        checks.instance("net", net, ModelState, "the ModelState of model.init(key)")
        device = next(iter(net.params.values())).device
        return Initial(strength=torch.tensor(self.strength, device=device), initial=net.params)

    def __call__(self, params: dict[str, Tensor], state: Any, exp: Experience) -> tuple[Tensor, Any]:
        """The penalty, (), whatever the experience."""
        held: Initial = checks.slot(state, self.slot, Initial, "an Initial made by l2_init(...).init(net)")
        terms = tree.map(lambda p, initial: (p - initial).square().sum(), params, held.initial)
        return held.strength / 2 * torch.stack(tree.leaves(terms)).sum(), state


def l2_init(strength: float, *, slot: str = "l2_init") -> L2Init:
    """The Loss strength / 2 * sum_k (p_k - initial_k)^2 of the parameters p: add it to another with `cl.losses.total`.

    The initial values are those of the network that its slot is made for, `.init(net)`; `l2_init.strength` is a leaf of the slot.
    All parameters are held, those of norms too, which the authors' code leaves free.

    Raises TypeError or ValueError for a strength that is not finite and at least 0, or an empty slot.

    >>> import cl_func as cl
    >>> net = cl.models.mlp(6, hidden=(), n_classes=4).init(cl.key(0))
    >>> penalty = l2_init(0.5)
    >>> agent = cl.state(type("Held", (cl.Agent,), {"__annotations__": {"l2_init": Any}}))
    >>> state = agent(key=cl.key(0), model=net, l2_init=penalty.init(net))
    >>> penalty({name: p + 1 for name, p in net.params.items()}, state, None)[0]
    tensor(7.)
    """
    return L2Init(nonnegative("strength", strength, 1e-3), checks.path("slot", slot, "l2_init"))

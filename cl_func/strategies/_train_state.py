"""How the first state of every method begins: the key is split, the network drawn, and the optimiser's state made for it."""

from __future__ import annotations

from torch import Tensor

from cl_func import random
from cl_func.core import Optimizer
from cl_func.models import Model, ModelState
from cl_func.tree import PyTree


def check_untrained(epochs: int, iterations: int | None) -> None:
    """Check that a method without an optimiser is not asked to train: ValueError for other than one epoch."""
    if epochs != 1 or iterations is not None:
        given = f"epochs={epochs!r}" if iterations is None else f"iterations={iterations!r}"
        raise ValueError(
            f"optimizer: expected one beside {given}, since without it nothing is trained; give one, or leave {given} out."
        )


def init_train_state(
    key: Tensor, model: Model, optimizer: Optimizer | None, weights: ModelState | None = None
) -> tuple[Tensor, ModelState, PyTree]:
    """The agent's key, () int64, the network, and the optimiser's state, None without an optimiser.

    The network is drawn from the other child of the key, unless `weights` are given, which are taken as they are.
    """
    key, init_key = random.split(key)
    net = model.init(init_key) if weights is None else weights
    return key, net, None if optimizer is None else optimizer.init(net.params)

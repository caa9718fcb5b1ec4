"""Synaptic Intelligence (Zenke, Poole & Ganguli, ICML 2017): hold the parameters whose motion lowered earlier losses."""

from __future__ import annotations

from torch import Tensor

from cl_func import random, regularizers
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches
from cl_func.losses import cross_entropy
from cl_func.models import Model
from cl_func.tree import state


@state
class SIAgent(Agent):
    """An agent with path integrals."""

    si: regularizers.SI


def si(
    model: Model,
    optimizer: Optimizer,
    *,
    strength: float,
    damping: float = 0.1,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Cross-entropy plus strength / 2 * sum_k importance_k * (p_k - anchor_k)^2 (eq. 4 and 5; c is strength / 2, xi the damping).

    The importances come from the gradients of the training itself: no further pass over the data.
    Raises ValueError where each experience would be a single step, which no penalty can change.
    Hyperparameter paths: `si.strength`, `si.damping`, those of the optimiser.
    """
    regularizers.quadratic._check_numbers(strength=strength, damping=damping)
    regularizers.quadratic._check_several_steps(batch_size, epochs, iterations)
    step = regularizers.path.train_step(cross_entropy(model), optimizer, slot="si")

    def init(key: Tensor) -> SIAgent:
        key, init_key = random.split(key)
        net = model.init(init_key)
        held = regularizers.si.init(net.params, strength, damping)
        return SIAgent(key=key, model=net, opt=optimizer.init(net.params), si=held)

    return Strategy(
        init,
        compose(
            minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
            regularizers.si.consolidate(),
        ),
        model,
    )

"""Elastic Weight Consolidation (Kirkpatrick et al., PNAS 2017): hold the parameters that earlier answers depend on."""

from __future__ import annotations

from torch import Tensor

from cl_func import random, regularizers
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.losses import cross_entropy, total
from cl_func.models import Model
from cl_func.regularizers.importance import Labels
from cl_func.tree import state


@state
class EWCAgent(Agent):
    """An agent with importances, of EWC per experience or online."""

    ewc: regularizers.EWC


def ewc(
    model: Model,
    optimizer: Optimizer,
    *,
    strength: float,
    labels: Labels = "true",
    importance_batch_size: int | None = None,
    importance_samples: int | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Cross-entropy plus strength / 2 * sum_t sum_k F_t,k * (p_k - p_t,k)^2 over the experiences t before (eq. 3).

    labels: the labels of the Fisher information F_t: "true", "model" (drawn from the prediction) or "all" (expectation over all).
    importance_batch_size: how many single-row gradients it holds at a time; by default the batch size.
    importance_samples: how many rows it is the mean of; by default all of the experience.
    Hyperparameter paths: `ewc.strength`, those of the optimiser.
    """
    check = regularizers.quadratic._check_numbers
    check(strength=strength, importance_batch_size=importance_batch_size, importance_samples=importance_samples)
    step = train_step(total(cross_entropy(model), regularizers.quadratic.loss("ewc")), optimizer)
    chunk = importance_batch_size or batch_size

    def init(key: Tensor) -> EWCAgent:
        key, init_key = random.split(key)
        net = model.init(init_key)
        held = regularizers.ewc.init(net.params, strength)
        return EWCAgent(key=key, model=net, opt=optimizer.init(net.params), ewc=held)

    return Strategy(
        init,
        compose(
            minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
            regularizers.ewc.consolidate(model, labels=labels, batch_size=chunk, samples=importance_samples),
        ),
        model,
    )

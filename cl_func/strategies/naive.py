"""Naive (fine-tuning): train on each experience as it comes. The lower bound that every method must beat."""

from __future__ import annotations

from torch import Tensor

from cl_func import random
from cl_func.core import Agent, Optimizer, Strategy, minibatches, train_step
from cl_func.losses import cross_entropy
from cl_func.models import Model


def naive(
    model: Model,
    optimizer: Optimizer,
    *,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Cross-entropy on the current experience and nothing else.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.
    """
    step = train_step(cross_entropy(model), optimizer)

    def init(key: Tensor) -> Agent:
        key, init_key = random.split(key)
        net = model.init(init_key)
        return Agent(key=key, model=net, opt=optimizer.init(net.params))

    return Strategy(init, minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations), model)

"""Naive (fine-tuning): train on each experience as it comes. The lower bound that every method must beat."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func.core import Agent, Optimizer, Strategy, minibatches, train_step
from cl_func.losses import cross_entropy
from cl_func.models import Model
from cl_func.strategies._train_state import init_train_state


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
    return Strategy(
        partial(_init, model=model, optimizer=optimizer),
        minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
        model,
    )


def _init(key: Tensor, *, model: Model, optimizer: Optimizer) -> Agent:
    key, net, opt = init_train_state(key, model, optimizer)
    return Agent(key=key, model=net, opt=opt)

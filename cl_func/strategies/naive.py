"""Naive (fine-tuning): train on each experience as it comes. The lower bound that every method must beat."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func.core import Agent, Loss, Optimizer, Strategy, minibatches, train_step
from cl_func.models import Model
from cl_func.strategies._task_loss import task_loss
from cl_func.strategies._train_state import init_train_state


def naive(
    model: Model,
    optimizer: Optimizer,
    *,
    loss: Loss | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Train on each experience as it comes, and do nothing against forgetting.

    The loss is the cross-entropy over all classes, unless another is given.

    Reference: McCloskey & Cohen, "Catastrophic interference in connectionist networks", Psychology of Learning and Motivation 24,
    1989, who first saw networks trained like this forget.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        loss: What is minimised on the task, such as `cl.losses.mean_squared_error(model)`; None, the default, is the cross-entropy.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `Agent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, or both `epochs` and `iterations` are given.
    """
    step = train_step(task_loss(model, loss), optimizer)
    return Strategy(
        partial(_init, model=model, optimizer=optimizer),
        minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
        model,
    )


def _init(key: Tensor, *, model: Model, optimizer: Optimizer) -> Agent:
    key, net, opt = init_train_state(key, model, optimizer)
    return Agent(key=key, model=net, opt=opt)

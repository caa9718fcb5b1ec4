"""A-GEM (Chaudhry et al., "Efficient lifelong learning with A-GEM", ICLR 2019).

No step may raise the loss on a sample of the memory: the gradient is projected as in eq. 11. After the training the experience is
offered to the memory, a reservoir.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import checks, memory, projections, tree
from cl_func.core import Agent, Loss, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.losses import target_of
from cl_func.models import Model
from cl_func.strategies._task_loss import task_loss
from cl_func.strategies._train_state import init_train_state
from cl_func.tree import state


@state
class AGEMAgent(Agent):
    """An agent with a replay memory."""

    replay: memory.Reservoir


def agem(
    model: Model,
    optimizer: Optimizer,
    *,
    capacity: int,
    sample_size: int,
    loss: Loss | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Let no step raise the loss on rows drawn from a reservoir memory.

    Where a step along the gradient of the minibatch would, to first order, the gradient is projected onto the nearest one that
    would not. After the training, the experience is offered to the memory. Meant for SGD without momentum: momentum and Adam come
    after the projection and undo part of it.

    Reference: Chaudhry, Ranzato, Rohrbach & Elhoseiny, "Efficient lifelong learning with A-GEM", ICLR 2019, eq. 11.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. The memory needs its `input_shape`.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        capacity: Rows that the memory holds, at least 1.
        sample_size: Rows drawn from the memory at every step, from 1 to `capacity`.
        loss: What is minimised on the task, such as `cl.losses.mean_squared_error(model)`; None, the default, is the cross-entropy.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `AGEMAgent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or the model has no `input_shape`.
    """
    task = task_loss(model, loss)
    step = train_step(task, optimizer, projections.agem.project(task, checks.drawable("sample_size", sample_size, capacity)))
    empty = memory.reservoir.init(capacity, memory.sample(model, target_of(loss)))
    return Strategy(
        partial(_init, model=model, optimizer=optimizer, empty=empty),
        compose(
            minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
            memory.reservoir.insert(),
        ),
        model,
    )


def _init(key: Tensor, *, model: Model, optimizer: Optimizer, empty: memory.Reservoir) -> AGEMAgent:
    key, net, opt = init_train_state(key, model, optimizer)
    return AGEMAgent(key=key, model=net, opt=opt, replay=tree.to(empty, key.device))

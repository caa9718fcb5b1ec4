"""Gradient Episodic Memory (Lopez-Paz & Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017, eq. 8 to 11).

No step may raise the loss on the memory of any past experience: the gradient is moved to the closest one that all of them allow.
After the training the experience is offered to a memory of its own.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import memory, projections, tree
from cl_func.core import Agent, Loss, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.losses import target_of
from cl_func.models import Model
from cl_func.strategies._task_loss import task_loss
from cl_func.strategies._train_state import init_train_state
from cl_func.tree import state


@state
class GEMAgent(Agent):
    """An agent with a memory per experience."""

    gem: projections.GEMMemory


def gem(
    model: Model,
    optimizer: Optimizer,
    *,
    memory_per_experience: int,
    n_experiences: int,
    margin: float = 0.5,
    which: projections.gem.Which = projections.gem.by_index,
    loss: Loss | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Let no step raise the loss on the memory of any past experience.

    Where a step along the gradient of the minibatch would, to first order, the gradient is moved to the closest one that would not;
    this costs one more gradient per memory and step. Meant for SGD without momentum: momentum and Adam come after the projection
    and undo part of it.

    Reference: Lopez-Paz & Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017, eq. 8 to 11.

    Hyperparameter paths: `gem.margin`, those of the optimiser.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. The memory needs its `input_shape`.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        memory_per_experience: Rows that the memory of one experience holds, at least 1.
        n_experiences: How many experiences have a memory, at least 1; as many as the stream has.
        margin: The least weight of each constraint in the dual problem (gamma in the paper), at least 0; above 0 it favours
            backward transfer.
        which: `which(state, exp)`, () int64 from 0 to n_experiences - 1, says which memory an experience belongs to; by default its
            index in the stream. The pieces of an online stream are numbered one by one and need another rule, such as their
            `exp.task`.
        loss: What is minimised on the task, such as `cl.losses.mean_squared_error(model)`; None, the default, is the cross-entropy.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `GEMAgent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or the model has no `input_shape`.
    """
    task = task_loss(model, loss)
    step = train_step(task, optimizer, projections.gem.project(task, which=which))
    empty = projections.gem.init(n_experiences, memory_per_experience, memory.sample(model, target_of(loss)), margin)
    return Strategy(
        partial(_init, model=model, optimizer=optimizer, empty=empty),
        compose(
            minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
            projections.gem.insert(which=which),
        ),
        model,
    )


def _init(key: Tensor, *, model: Model, optimizer: Optimizer, empty: projections.GEMMemory) -> GEMAgent:
    key, net, opt = init_train_state(key, model, optimizer)
    return GEMAgent(key=key, model=net, opt=opt, gem=tree.to(empty, key.device))

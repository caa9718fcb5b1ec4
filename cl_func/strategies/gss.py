"""GSS (Aljundi, Lin, Goujaud & Bengio, "Gradient based sample selection for online continual learning", NeurIPS 2019): experience
replay from a memory whose rows have gradients in different directions, chosen by the greedy Algorithm 2.

Every minibatch is joined by rows drawn uniformly from the memory, and is offered to the memory right after its step. After the
training on the whole experience it would be too late: once its rows are fitted, their gradients hardly ever oppose those of the
memory, and whole classes stay out.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import checks, memory, tree
from cl_func.core import Agent, Loss, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.losses import row_losses, target_of, with_replay
from cl_func.models import Model
from cl_func.strategies._task_loss import task_loss
from cl_func.strategies._train_state import init_train_state
from cl_func.tree import state


@state
class GSSAgent(Agent):
    """An agent with a memory selected by gradients."""

    replay: memory.GSS


def gss(
    model: Model,
    optimizer: Optimizer,
    *,
    capacity: int,
    replay_size: int,
    subset_size: int = 10,
    loss: Loss | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Experience replay from a memory that prefers rows whose gradients point in different directions.

    Each minibatch is offered to the memory after its step. The paper passes over the data once; in further passes a row is offered
    again, and may be stored twice. For models with parameters outside of linear layers, the gradients of all rows of a minibatch
    are held at once: batch_size times the size of the model.

    Reference: Aljundi, Lin, Goujaud & Bengio, "Gradient based sample selection for online continual learning", NeurIPS 2019,
    Algorithm 2.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. The memory needs its `input_shape`.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        capacity: Rows that the memory holds, at least 1.
        replay_size: Rows drawn from the memory with every minibatch, from 1 to `capacity`.
        subset_size: Stored rows with whose gradients that of a new row is compared, from 1 to `capacity`.
        loss: What is minimised on the task, such as `cl.losses.mean_squared_error(model)`; None, the default, is the cross-entropy.
            It must say what it is on each row, as those of `cl.losses` do (see `cl.losses.for_target`).
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `GSSAgent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or the model has no `input_shape`.
    """
    checks.drawable("subset_size", subset_size, capacity)
    checks.drawable("replay_size", replay_size, capacity)
    step = train_step(with_replay(task_loss(model, loss), replay_size, draw=memory.gss.draw), optimizer)
    empty = memory.gss.init(capacity, memory.sample(model, target_of(loss)))
    return Strategy(
        partial(_init, model=model, optimizer=optimizer, empty=empty),
        minibatches(
            compose(step, memory.gss.insert(model, subset_size, losses=row_losses(loss))),
            batch_size=batch_size,
            epochs=epochs,
            iterations=iterations,
        ),
        model,
    )


def _init(key: Tensor, *, model: Model, optimizer: Optimizer, empty: memory.GSS) -> GSSAgent:
    key, net, opt = init_train_state(key, model, optimizer)
    return GSSAgent(key=key, model=net, opt=opt, replay=tree.to(empty, key.device))

"""Experience Replay (Chaudhry et al. 2019, "On tiny episodic memories in continual learning"), with a reservoir memory.

Every minibatch is joined by rows drawn uniformly from the memory; after the training the experience is offered to the memory. The
paper offers each minibatch after its step, with one pass over the data: for that, cut the stream with `cl.streams.split_online`.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import checks, memory, tree
from cl_func.core import Agent, Loss, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.losses import target_of, with_replay
from cl_func.models import Model
from cl_func.strategies._task_loss import task_loss
from cl_func.strategies._train_state import init_train_state
from cl_func.tree import state


@state
class ERAgent(Agent):
    """An agent with a replay memory."""

    replay: memory.Reservoir


def er(
    model: Model,
    optimizer: Optimizer,
    *,
    capacity: int,
    replay_size: int,
    loss: Loss | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Train on every minibatch together with rows drawn from a reservoir memory.

    The loss is one mean over the new and the replayed rows. After the training, the experience is offered to
    the memory.

    Reference: Chaudhry, Rohrbach, Elhoseiny, Ajanthan, Dokania, Torr & Ranzato, "On tiny episodic memories in continual learning",
    arXiv 2019.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. The memory needs its `input_shape`.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        capacity: Rows that the memory holds, at least 1.
        replay_size: Rows drawn from the memory with every minibatch, from 1 to `capacity`.
        loss: What is minimised on the task, such as `cl.losses.mean_squared_error(model)`; None, the default, is the cross-entropy.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `ERAgent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or the model has no `input_shape`.
    """
    step = train_step(with_replay(task_loss(model, loss), checks.drawable("replay_size", replay_size, capacity)), optimizer)
    empty = memory.reservoir.init(capacity, memory.sample(model, target_of(loss)))
    return Strategy(
        partial(_init, model=model, optimizer=optimizer, empty=empty),
        compose(
            minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
            memory.reservoir.insert(),
        ),
        model,
    )


def _init(key: Tensor, *, model: Model, optimizer: Optimizer, empty: memory.Reservoir) -> ERAgent:
    key, net, opt = init_train_state(key, model, optimizer)
    return ERAgent(key=key, model=net, opt=opt, replay=tree.to(empty, key.device))

"""Experience Replay (Chaudhry et al. 2019, "On tiny episodic memories in continual learning"), with a reservoir memory.

Every minibatch is joined by rows drawn uniformly from the memory; after the training the experience is offered to the memory. The
paper offers each minibatch after its step, with one pass over the data: for that, `cl.streams.split_online` cuts the stream.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import checks, memory, tree
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.losses import cross_entropy, with_replay
from cl_func.models import Model
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
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Replay `replay_size` rows with every minibatch from a reservoir of `capacity` rows.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.
    """
    step = train_step(with_replay(cross_entropy(model), checks.drawable("replay_size", replay_size, capacity)), optimizer)
    empty = memory.reservoir.init(capacity, memory.sample(model))
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

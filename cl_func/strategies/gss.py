"""GSS (Aljundi, Lin, Goujaud & Bengio, "Gradient based sample selection for online continual learning", NeurIPS 2019): experience
replay from a memory whose rows have gradients in different directions, chosen by the greedy Algorithm 2.

Every minibatch is joined by rows drawn uniformly from the memory, and offered to the memory after its step, not when the training
on the experience is over: once its rows are fitted, their gradients hardly ever oppose those of the memory, and whole classes stay
out.
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
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Replay `replay_size` rows with every minibatch; a row's gradient is compared with those of `subset_size` rows of the memory.

    The paper passes over the data once; in further passes a row is offered again, and may be stored twice.
    With parameters outside of linear layers, the gradients of the single rows of a minibatch are held at once: batch_size times the
    model's size in memory. Raises ValueError for a subset above the capacity.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.
    """
    checks.drawable("subset_size", subset_size, capacity)
    checks.drawable("replay_size", replay_size, capacity)
    step = train_step(with_replay(cross_entropy(model), replay_size, draw=memory.gss.draw), optimizer)
    empty = memory.gss.init(capacity, memory.sample(model))
    return Strategy(
        partial(_init, model=model, optimizer=optimizer, empty=empty),
        minibatches(
            compose(step, memory.gss.insert(model, subset_size)), batch_size=batch_size, epochs=epochs, iterations=iterations
        ),
        model,
    )


def _init(key: Tensor, *, model: Model, optimizer: Optimizer, empty: memory.GSS) -> GSSAgent:
    key, net, opt = init_train_state(key, model, optimizer)
    return GSSAgent(key=key, model=net, opt=opt, replay=tree.to(empty, key.device))

"""A-GEM (Chaudhry et al., "Efficient lifelong learning with A-GEM", ICLR 2019).

No step may raise the loss on a sample of the memory: the gradient is projected as in eq. 11. After the training the
experience is offered to the memory, a reservoir.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import checks, memory, projections, tree
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.losses import cross_entropy
from cl_func.models import Model
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
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Constrain every step by the gradient on `sample_size` rows drawn from a reservoir of `capacity` rows.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.
    """
    loss = cross_entropy(model)
    step = train_step(loss, optimizer, projections.agem.project(loss, checks.drawable("sample_size", sample_size, capacity)))
    empty = memory.reservoir.init(capacity, memory.sample(model))
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

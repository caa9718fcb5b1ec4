"""Gradient Episodic Memory (Lopez-Paz & Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017, eq. 8 to 11).

No step may raise the loss on the memory of any past experience: the gradient is moved to the closest one that all of them allow.
After the training the experience is offered to a memory of its own.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import memory, projections, tree
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.losses import cross_entropy
from cl_func.models import Model
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
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Constrain every step by the gradients on `memory_per_experience` rows of each of up to `n_experiences` experiences.

    `which(state, exp)`, () int64, tells the memory of an experience, by default its index; the pieces of an online stream count one
    by one and need another rule, such as `lambda state, exp: exp.task`.

    Hyperparameter paths: `gem.margin`, those of the optimiser.
    """
    loss = cross_entropy(model)
    step = train_step(loss, optimizer, projections.gem.project(loss, which=which))
    empty = projections.gem.init(n_experiences, memory_per_experience, memory.sample(model), margin)
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

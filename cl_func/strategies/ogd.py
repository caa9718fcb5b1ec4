"""Orthogonal Gradient Descent (Farajtabar et al., "Orthogonal gradient descent for continual learning", AISTATS 2020), OGD-GTL.

The gradient loses its part in the span of stored gradients: those of the true label's logit on samples of past experiences.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import projections
from cl_func.checks import positive_int
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.losses import cross_entropy
from cl_func.models import Model
from cl_func.strategies._train_state import init_train_state
from cl_func.tree import state


@state
class OGDAgent(Agent):
    """An agent with a basis of directions to avoid."""

    ogd: projections.OGD


def ogd(
    model: Model,
    optimizer: Optimizer,
    *,
    capacity: int,
    per_experience: int,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Avoid up to `capacity` directions, `per_experience` more after each experience.

    Meant for SGD without momentum: momentum and Adam move the weights out of the space that the gradient was projected into.
    Of models of linear layers their factors are stored; of others each direction is as large as the parameters.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.
    """
    positive_int("capacity", capacity)
    step = train_step(cross_entropy(model), optimizer, projections.ogd.project())
    store = projections.ogd.store(model, positive_int("per_experience", per_experience))
    return Strategy(
        partial(_init, model=model, optimizer=optimizer, capacity=capacity),
        compose(
            minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
            store,
        ),
        model,
    )


def _init(key: Tensor, *, model: Model, optimizer: Optimizer, capacity: int) -> OGDAgent:
    key, net, opt = init_train_state(key, model, optimizer)
    return OGDAgent(key=key, model=net, opt=opt, ogd=projections.ogd.init(model, net, capacity))

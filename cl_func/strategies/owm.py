"""Orthogonal Weight Modification (Zeng et al., "Continual learning of context-dependent processing in neural networks", Nature
Machine Intelligence 2019): no step may change what a layer answers to the mean inputs of old minibatches.

Each layer's gradient is projected; after the training one pass over the experience's minibatches takes their mean inputs up into
the projectors.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import projections
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.losses import cross_entropy
from cl_func.models import Model
from cl_func.optim.hyperparameters import nonnegative
from cl_func.strategies._train_state import init_train_state
from cl_func.tree import state


@state
class OWMAgent(Agent):
    """An agent with a projector per layer."""

    owm: projections.OWM


def owm(
    model: Model,
    optimizer: Optimizer,
    *,
    alpha: float = 1e-3,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Project the gradient of each linear layer; for models of linear layers, such as `cl.models.mlp`. No old data are stored.

    Meant for SGD without momentum: momentum and Adam move the weights out of the space that the gradient was projected into.

    Hyperparameter paths: `owm.alpha` (the smaller, the stronger the protection), those of the optimiser.
    """
    alpha = nonnegative("alpha", alpha, 1e-3, positive=True)
    step = train_step(cross_entropy(model), optimizer, projections.owm.project())
    return Strategy(
        partial(_init, model=model, optimizer=optimizer, alpha=alpha),
        compose(
            minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
            minibatches(projections.owm.absorb(model), batch_size=batch_size),
        ),
        model,
    )


def _init(key: Tensor, *, model: Model, optimizer: Optimizer, alpha: float) -> OWMAgent:
    key, net, opt = init_train_state(key, model, optimizer)
    return OWMAgent(key=key, model=net, opt=opt, owm=projections.owm.init(model, net, alpha))

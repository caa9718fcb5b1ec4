"""Orthogonal Weight Modification (Zeng et al., "Continual learning of context-dependent processing in neural networks", Nature
Machine Intelligence 2019): no step may change what a layer answers to the mean inputs of old minibatches.

Each layer's gradient is projected; after the training, one pass over the experience's minibatches takes their mean inputs up into
the projectors.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import projections
from cl_func.core import Agent, Loss, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.models import Model
from cl_func.optim.hyperparameters import nonnegative
from cl_func.strategies._task_loss import task_loss
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
    loss: Loss | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Project the gradient of each linear layer so that its answers to the mean inputs of past minibatches stay as they are.

    No old rows are stored. Meant for SGD without momentum: momentum and Adam move the weights out of the space that the gradient
    was projected into.

    Reference: Zeng, Chen, Cui & Yu, "Continual learning of context-dependent processing in neural networks", Nature Machine
    Intelligence 2019.

    Hyperparameter paths: `owm.alpha` (the smaller, the stronger the protection), those of the optimiser.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. It must consist of linear layers, and
            have an `input_shape`.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        alpha: Damping of the projectors' update, above 0; the smaller, the stronger the protection.
        loss: What is minimised on the task, such as `cl.losses.mean_squared_error(model)`; None, the default, is the cross-entropy.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `OWMAgent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, or both `epochs` and `iterations` are given. From `Strategy.init`: the model has
            trained parameters outside of linear layers, or no `input_shape`.
    """
    alpha = nonnegative("alpha", alpha, 1e-3, positive=True)
    step = train_step(task_loss(model, loss), optimizer, projections.owm.project())
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

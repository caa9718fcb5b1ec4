"""Orthogonal Gradient Descent (Farajtabar et al., "Orthogonal gradient descent for continual learning", AISTATS 2020), OGD-GTL.

The gradient loses its part in the span of stored gradients: those of the true label's logit on samples of past experiences.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import projections
from cl_func.checks import positive_int
from cl_func.core import Agent, Loss, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.losses import target_of
from cl_func.models import Model
from cl_func.strategies._task_loss import task_loss
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
    loss: Loss | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Remove from each gradient its part along directions that would change the answers on rows of past experiences.

    The directions are gradients of the true label's logit, stored after each experience; for other targets than class labels they
    are those of every output (OGD-ALL). Meant for SGD without momentum: momentum and Adam move the weights out of the space that
    the gradient was projected into.

    Reference: Farajtabar, Azizan, Mott & Li, "Orthogonal gradient descent for continual learning", AISTATS 2020, Algorithm 1,
    variant OGD-GTL.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. If it has linear layers alone and its
            `input_shape`, directions are stored by factors; otherwise each is as large as the parameters.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        capacity: Directions stored in all, at least 1; once there are so many, no more are added.
        per_experience: Rows whose directions are stored after each experience, at least 1.
        loss: What is minimised on the task, such as `cl.losses.mean_squared_error(model)`; None, the default, is the cross-entropy.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `OGDAgent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, or both `epochs` and `iterations` are given.
    """
    positive_int("capacity", capacity)
    step = train_step(task_loss(model, loss), optimizer, projections.ogd.project())
    store = projections.ogd.store(model, positive_int("per_experience", per_experience), target=target_of(loss))
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

"""Synaptic Intelligence (Zenke, Poole & Ganguli, ICML 2017): hold the parameters whose motion lowered earlier losses."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import regularizers
from cl_func.core import Agent, Loss, Optimizer, Strategy, compose
from cl_func.models import Model
from cl_func.strategies._task_loss import task_loss
from cl_func.strategies._train_state import init_train_state
from cl_func.tree import state


@state
class SIAgent(Agent):
    """An agent with path integrals."""

    si: regularizers.SI


def si(
    model: Model,
    optimizer: Optimizer,
    *,
    strength: float,
    damping: float = 0.1,
    loss: Loss | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Hold each parameter near where the last experience left it, the more so the more its motion has lowered the loss.

    The loss is `loss` plus strength / 2 * sum_k importance_k * (p_k - anchor_k)^2. The importances come from the
    gradients of the training itself, with no further pass over the data.

    Reference: Zenke, Poole & Ganguli, "Continual learning through synaptic intelligence", ICML 2017, eq. 4 and 5.

    Hyperparameter paths: `si.strength`, `si.damping`, those of the optimiser.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        strength: Weight of the penalty, at least 0; twice the paper's c.
        damping: Added to the squared motion by which a path integral is divided (xi in the paper), above 0.
        loss: What is minimised on the task, such as `cl.losses.mean_squared_error(model)`; None, the default, is the cross-entropy.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `SIAgent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or each experience would be a single
            step, taken where the parameters are still at their anchor.
    """
    regularizers.quadratic._check_numbers(strength=strength, damping=damping)
    step = regularizers.path.train_step(task_loss(model, loss), optimizer, slot="si")
    return Strategy(
        partial(_init, model=model, optimizer=optimizer, strength=strength, damping=damping),
        compose(
            regularizers.quadratic._several_steps(step, batch_size, epochs, iterations),
            regularizers.si.consolidate(),
        ),
        model,
    )


def _init(key: Tensor, *, model: Model, optimizer: Optimizer, strength: float, damping: float) -> SIAgent:
    key, net, opt = init_train_state(key, model, optimizer)
    return SIAgent(key=key, model=net, opt=opt, si=regularizers.si.init(net.params, strength, damping))

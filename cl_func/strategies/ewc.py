"""Elastic Weight Consolidation (Kirkpatrick et al., PNAS 2017): hold the parameters that earlier answers depend on."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import regularizers
from cl_func.core import Agent, Loss, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.losses import target_of, total
from cl_func.models import Model
from cl_func.regularizers.importance import Labels
from cl_func.strategies._task_loss import task_loss
from cl_func.strategies._train_state import init_train_state
from cl_func.tree import state


@state
class EWCAgent(Agent):
    """An agent with importances, of EWC per experience or online."""

    ewc: regularizers.EWC


def ewc(
    model: Model,
    optimizer: Optimizer,
    *,
    strength: float,
    labels: Labels | None = None,
    importance_batch_size: int | None = None,
    importance_samples: int | None = None,
    loss: Loss | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Hold each parameter near where past experiences left it, the more so the larger its Fisher information.

    The loss is `loss` plus strength / 2 * sum_t sum_k F_t,k * (p_k - p_t,k)^2 over the past experiences t, with F_t the
    diagonal of the Fisher information and p_t the parameters at the end of t.

    Reference: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017, eq. 3.

    Hyperparameter paths: `ewc.strength`, those of the optimiser.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        strength: Weight of the penalty, at least 0.
        labels: The labels of the Fisher information: "true", those of the rows (the empirical Fisher information); "model", drawn
            from the model's prediction; "all", the expectation over all C labels, or K targets, at C or K times the cost. None, the
            default, is "true" for class labels and "all" otherwise (see `cl.regularizers.importance.fisher`).
        importance_batch_size: Single-row gradients held at a time, at least 1; None, the default, takes `batch_size`.
        importance_samples: Rows of the experience that the Fisher information is the mean of, at least 1, rounded up to whole
            chunks of `importance_batch_size`; where there are fewer, rows are taken again. None, the default, takes all, once.
        loss: What is minimised on the task, such as `cl.losses.mean_squared_error(model)`; None, the default, is the cross-entropy.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `EWCAgent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or `labels` is none of the three.
    """
    check = regularizers.quadratic._check_numbers
    check(strength=strength, importance_batch_size=importance_batch_size, importance_samples=importance_samples)
    step = train_step(total(task_loss(model, loss), regularizers.quadratic.loss("ewc")), optimizer)
    chunk = importance_batch_size or batch_size
    return Strategy(
        partial(_init, model=model, optimizer=optimizer, strength=strength),
        compose(
            minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
            regularizers.ewc.consolidate(
                model, labels=labels, target=target_of(loss), batch_size=chunk, samples=importance_samples
            ),
        ),
        model,
    )


def _init(key: Tensor, *, model: Model, optimizer: Optimizer, strength: float) -> EWCAgent:
    key, net, opt = init_train_state(key, model, optimizer)
    return EWCAgent(key=key, model=net, opt=opt, ewc=regularizers.ewc.init(net.params, strength))

"""Riemannian Walk (Chaudhry, Dokania, Ajanthan & Torr, ECCV 2018): EWC and SI in one, both kept up to date at each step."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import regularizers
from cl_func.core import Agent, Loss, Optimizer, Strategy, compose
from cl_func.losses import target_of
from cl_func.models import Model
from cl_func.regularizers.importance import Labels
from cl_func.strategies._task_loss import task_loss
from cl_func.strategies._train_state import init_train_state
from cl_func.tree import state


@state
class RWalkAgent(Agent):
    """An agent with a running Fisher information and the scores of its path."""

    rwalk: regularizers.RWalk


def rwalk(
    model: Model,
    optimizer: Optimizer,
    *,
    strength: float,
    alpha: float = 0.9,
    damping: float = 1e-3,
    interval: int = 10,
    labels: Labels | None = None,
    importance_batch_size: int | None = None,
    loss: Loss | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Hold each parameter by a running Fisher information, as in EWC, and by how far its motion has lowered the loss, as in SI.

    The loss is `loss` plus strength / 2 * sum_k (fisher_k + score_k) * (p_k - anchor_k)^2. The Fisher information of
    every minibatch is taken row by row, which costs one more gradient for each row.

    Reference: Chaudhry, Dokania, Ajanthan & Torr, "Riemannian walk for incremental learning: understanding forgetting and
    intransigence", ECCV 2018, eq. 6 to 8.

    Hyperparameter paths: `rwalk.strength`, `rwalk.alpha`, `rwalk.damping`, those of the optimiser.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        strength: Weight of the penalty, at least 0; twice the paper's lambda.
        alpha: Weight of the newest minibatch in the running Fisher information, from 0 to 1.
        damping: Added to the divisor of the score (epsilon in the paper), above 0.
        interval: Steps over which one piece of the path is scored (Delta t in the paper), at least 1.
        labels: The labels of the Fisher information: "true", those of the rows (the empirical Fisher information); "model", drawn
            from the model's prediction; "all", the expectation over all C labels, or K targets, at C or K times the cost. None, the
            default, is "true" for class labels and "all" otherwise (see `cl.regularizers.importance.fisher`).
        importance_batch_size: Single-row gradients held at a time, at least 1; None, the default, takes all rows of the minibatch.
        loss: What is minimised on the task, such as `cl.losses.mean_squared_error(model)`; None, the default, is the cross-entropy.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `RWalkAgent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, `labels` is none of the three, or each
            experience would be a single step, taken where the parameters are still at their anchor.
    """
    regularizers.quadratic._check_numbers(
        strength=strength, alpha=alpha, damping=damping, importance_batch_size=importance_batch_size
    )
    track = regularizers.rwalk.track(model, labels=labels, target=target_of(loss), batch_size=importance_batch_size)
    step = regularizers.path.train_step(task_loss(model, loss), optimizer, slot="rwalk")
    score = regularizers.rwalk.score(interval=interval)
    return Strategy(
        partial(_init, model=model, optimizer=optimizer, strength=strength, alpha=alpha, damping=damping),
        compose(
            regularizers.quadratic._several_steps(compose(track, step, score), batch_size, epochs, iterations),
            regularizers.rwalk.consolidate(),
        ),
        model,
    )


def _init(key: Tensor, *, model: Model, optimizer: Optimizer, strength: float, alpha: float, damping: float) -> RWalkAgent:
    key, net, opt = init_train_state(key, model, optimizer)
    return RWalkAgent(key=key, model=net, opt=opt, rwalk=regularizers.rwalk.init(net.params, strength, alpha, damping))

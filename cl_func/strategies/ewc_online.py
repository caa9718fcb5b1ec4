"""Online Elastic Weight Consolidation (Schwarz et al., "Progress & compress", ICML 2018): one anchor, importances that fade."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import regularizers
from cl_func.core import Loss, Optimizer, Strategy, compose, train_step
from cl_func.losses import target_of, total
from cl_func.models import Model
from cl_func.regularizers.importance import Labels
from cl_func.strategies._task_loss import task_loss
from cl_func.strategies._train_state import init_train_state
from cl_func.strategies.ewc import EWCAgent


def ewc_online(
    model: Model,
    optimizer: Optimizer,
    *,
    strength: float,
    decay: float = 1.0,
    labels: Labels | None = None,
    importance_batch_size: int | None = None,
    importance_samples: int | None = None,
    loss: Loss | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """EWC with one anchor, the parameters at the end of the last experience, and importances that may fade.

    The loss is `loss` plus strength / 2 * sum_k importance_k * (p_k - anchor_k)^2. After each experience, the importance
    becomes decay * (importance + F), with F the diagonal of the experience's Fisher information.

    Reference: Schwarz et al., "Progress & compress: a scalable framework for continual learning", ICML 2018, eq. 8 and 9.

    Hyperparameter paths: `ewc.strength`, `ewc.decay`, those of the optimiser.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        strength: Weight of the penalty, at least 0.
        decay: What is left of the importances after each experience (gamma in the paper), from 0 to 1.
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
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, `labels` is none of the three, or each
            experience would be a single step, taken where the parameters are still at their anchor.
    """
    check = regularizers.quadratic._check_numbers
    check(strength=strength, decay=decay, importance_batch_size=importance_batch_size, importance_samples=importance_samples)
    step = train_step(total(task_loss(model, loss), regularizers.quadratic.loss("ewc")), optimizer)
    chunk = importance_batch_size or batch_size
    return Strategy(
        partial(_init, model=model, optimizer=optimizer, strength=strength, decay=decay),
        compose(
            regularizers.quadratic._several_steps(step, batch_size, epochs, iterations),
            regularizers.ewc.consolidate(
                model, labels=labels, target=target_of(loss), batch_size=chunk, samples=importance_samples
            ),
        ),
        model,
    )


def _init(key: Tensor, *, model: Model, optimizer: Optimizer, strength: float, decay: float) -> EWCAgent:
    key, net, opt = init_train_state(key, model, optimizer)
    return EWCAgent(key=key, model=net, opt=opt, ewc=regularizers.ewc.init(net.params, strength, decay))

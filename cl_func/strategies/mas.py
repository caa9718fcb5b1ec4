"""Memory Aware Synapses (Aljundi et al., ECCV 2018): hold the parameters that the model's outputs are sensitive to."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import regularizers
from cl_func.core import Agent, Loss, Optimizer, Strategy, compose, train_step
from cl_func.losses import total
from cl_func.models import Model
from cl_func.strategies._task_loss import task_loss
from cl_func.strategies._train_state import init_train_state
from cl_func.tree import state


@state
class MASAgent(Agent):
    """An agent with the sensitivities of its outputs."""

    mas: regularizers.MAS


def mas(
    model: Model,
    optimizer: Optimizer,
    *,
    strength: float,
    decay: float = 1.0,
    importance_batch_size: int | None = None,
    importance_samples: int | None = None,
    loss: Loss | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Hold each parameter near where the last experience left it, the more so the more sensitive the outputs are to it.

    The loss is `loss` plus strength / 2 * sum_k importance_k * (p_k - anchor_k)^2. After each experience, the importance
    becomes decay * importance + mean_i |d ||f(x_i)||^2 / d p|, with f the logits.

    Reference: Aljundi, Babiloni, Elhoseiny, Rohrbach & Tuytelaars, "Memory aware synapses: learning what (not) to forget", ECCV
    2018, eq. 2 to 4.

    Hyperparameter paths: `mas.strength`, `mas.decay`, those of the optimiser.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        strength: Weight of the penalty, at least 0.
        decay: What is left of the importances after each experience, from 0 to 1; 1, the default, is the paper's.
        importance_batch_size: Single-row gradients held at a time, at least 1; None, the default, takes `batch_size`.
        importance_samples: Rows of the experience that the sensitivity is the mean of, at least 1, rounded up to whole chunks of
            `importance_batch_size`; where there are fewer, rows are taken again. None, the default, takes all, once.
        loss: What is minimised on the task, such as `cl.losses.mean_squared_error(model)`; None, the default, is the cross-entropy.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `MASAgent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or each experience would be a single
            step, taken where the parameters are still at their anchor.
    """
    check = regularizers.quadratic._check_numbers
    check(strength=strength, decay=decay, importance_batch_size=importance_batch_size, importance_samples=importance_samples)
    step = train_step(total(task_loss(model, loss), regularizers.quadratic.loss("mas")), optimizer)
    chunk = importance_batch_size or batch_size
    return Strategy(
        partial(_init, model=model, optimizer=optimizer, strength=strength, decay=decay),
        compose(
            regularizers.quadratic._several_steps(step, batch_size, epochs, iterations),
            regularizers.mas.consolidate(model, batch_size=chunk, samples=importance_samples),
        ),
        model,
    )


def _init(key: Tensor, *, model: Model, optimizer: Optimizer, strength: float, decay: float) -> MASAgent:
    key, net, opt = init_train_state(key, model, optimizer)
    return MASAgent(key=key, model=net, opt=opt, mas=regularizers.mas.init(net.params, strength, decay))

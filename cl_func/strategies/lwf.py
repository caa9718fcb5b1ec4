"""Learning without Forgetting (Li & Hoiem, TPAMI 2018): learn the new classes, keep the old ones' answers on the new inputs.

As in the paper's Algorithm 1 the two losses are separate: the cross-entropy is over the new classes alone, the distillation over
the old classes alone. (If all classes competed in the cross-entropy, it would push down the old ones faster than the teacher can
hold them.) With a multi-head model, each old head is kept on the new inputs, as in the paper.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import regularizers
from cl_func.core import Agent, Loss, Optimizer, Strategy, compose, train_step
from cl_func.experiences import Experience
from cl_func.losses import row_losses
from cl_func.memory.kinds import RowLosses
from cl_func.models import Model, forward, split_heads
from cl_func.strategies._task_loss import mean_loss, task_loss
from cl_func.strategies._train_state import init_train_state
from cl_func.tree import PyTree, state


@state
class LwFAgent(Agent):
    """An agent with a teacher."""

    lwf: regularizers.LwF


def lwf(
    model: Model,
    optimizer: Optimizer,
    *,
    strength: float = 1.0,
    temperature: float = 2.0,
    loss: Loss | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Learn the classes of the experience, and keep the model's earlier answers for the classes seen before.

    The loss is the cross-entropy over the experience's classes plus the distillation over the old ones. With
    `cl.models.multi_head(model, masks)` it is the cross-entropy over the head of each row's task plus the distillation of each old
    head. No old rows are stored. In an experience of a single class the cross-entropy has nothing to tell apart.

    A loss for other targets than class labels is taken over all outputs. What is distilled then is the probability of each label
    that was seen before; or for regression, where each experience counts as a new task, every output, by its squared distance to
    the teacher's.

    Reference: Li & Hoiem, "Learning without forgetting", TPAMI 2018, eq. 3 and Algorithm 1.

    Hyperparameter paths: `lwf.strength`, `lwf.temperature`, those of the optimiser.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        strength: Weight of the distillation, at least 0. The paper's lambda_o is strength * temperature^2: its 1 is 0.25 with the
            default temperature of 2.
        temperature: Divides the logits of teacher and student before the softmax, above 0; the higher, the softer.
        loss: What is minimised on the task, such as `cl.losses.mean_squared_error(model)`; None, the default, is the cross-entropy.
            It must say what it is on each row, as those of `cl.losses` do (see `cl.losses.for_target`).
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `LwFAgent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or each experience would be a single
            step, taken where the model still is its own teacher.
    """
    regularizers.lwf.hyperparameters(strength, temperature)
    task_loss(model, loss)
    plain, heads = split_heads(model)
    step = train_step(partial(_loss, model=plain, heads=heads, rows=row_losses(loss)), optimizer)
    return Strategy(
        partial(_init, model=model, optimizer=optimizer, strength=strength, temperature=temperature),
        compose(
            regularizers.lwf.snapshot(),
            regularizers.quadratic._several_steps(step, batch_size, epochs, iterations),
        ),
        model,
    )


def _init(key: Tensor, *, model: Model, optimizer: Optimizer, strength: float, temperature: float) -> LwFAgent:
    key, net, opt = init_train_state(key, model, optimizer)
    return LwFAgent(key=key, model=net, opt=opt, lwf=regularizers.lwf.init(net, model.n_classes, strength, temperature))


def _loss(
    params: PyTree, agent: LwFAgent, exp: Experience, *, model: Model, heads: Tensor | None, rows: RowLosses
) -> tuple[Tensor, LwFAgent]:
    """`model` gives all logits; heads: [T, C] bool, the classes of each task of a multi-head model."""
    logits, agent = forward(model, params, agent, exp)
    task = mean_loss(rows, logits, exp, exp.classes if heads is None else heads.to(logits.device)[exp.tasks])
    return task + regularizers.lwf.penalty(model, logits, agent.lwf, exp, heads), agent

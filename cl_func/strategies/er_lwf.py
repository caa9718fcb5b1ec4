"""Experience replay with Learning without Forgetting: replay old rows, and keep a teacher's answers on old and new rows alike."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import checks, memory, regularizers, tree
from cl_func.core import Agent, Loss, Optimizer, Strategy, compose, train_step
from cl_func.experiences import Experience
from cl_func.losses import row_losses, target_of, with_replay
from cl_func.memory.kinds import RowLosses
from cl_func.models import Model, forward, split_heads
from cl_func.strategies._task_loss import mean_loss, task_loss
from cl_func.strategies._train_state import init_train_state
from cl_func.tree import PyTree, state


@state
class ERLwFAgent(Agent):
    """An agent with a replay memory and a teacher."""

    replay: memory.Reservoir
    lwf: regularizers.LwF


def er_lwf(
    model: Model,
    optimizer: Optimizer,
    *,
    capacity: int,
    replay_size: int,
    strength: float = 1.0,
    temperature: float = 2.0,
    loss: Loss | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Experience replay plus the distillation of Learning without Forgetting, on new and replayed rows alike.

    All classes compete in the cross-entropy, with a multi-head model those of a row's task. The teacher is the model before the
    experience.

    Reference: Chaudhry et al., "On tiny episodic memories in continual learning", arXiv 2019; Li & Hoiem, "Learning without
    forgetting", TPAMI 2018.

    Hyperparameter paths: `lwf.strength`, `lwf.temperature`, those of the optimiser.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. The memory needs its `input_shape`.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        capacity: Rows that the memory holds, at least 1.
        replay_size: Rows drawn from the memory with every minibatch, from 1 to `capacity`.
        strength: Weight of the distillation, at least 0. LwF's lambda_o is strength * temperature^2.
        temperature: Divides the logits of teacher and student before the softmax, above 0; the higher, the softer.
        loss: What is minimised on the task, such as `cl.losses.mean_squared_error(model)`; None, the default, is the cross-entropy.
            It must say what it is on each row, as those of `cl.losses` do (see `cl.losses.for_target`).
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `ERLwFAgent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, the model has no `input_shape`, or each
            experience would be a single step, taken where the model still is its own teacher.
    """
    regularizers.lwf.hyperparameters(strength, temperature)
    task_loss(model, loss)
    plain, heads = split_heads(model)
    whole = partial(_loss, model=plain, heads=heads, rows=row_losses(loss))
    step = train_step(with_replay(whole, checks.drawable("replay_size", replay_size, capacity)), optimizer)
    empty = memory.reservoir.init(capacity, memory.sample(model, target_of(loss)))
    return Strategy(
        partial(_init, model=model, optimizer=optimizer, empty=empty, strength=strength, temperature=temperature),
        compose(
            regularizers.lwf.snapshot(),
            regularizers.quadratic._several_steps(step, batch_size, epochs, iterations),
            memory.reservoir.insert(),
        ),
        model,
    )


def _init(
    key: Tensor, *, model: Model, optimizer: Optimizer, empty: memory.Reservoir, strength: float, temperature: float
) -> ERLwFAgent:
    key, net, opt = init_train_state(key, model, optimizer)
    teacher = regularizers.lwf.init(net, model.n_classes, strength, temperature)
    return ERLwFAgent(key=key, model=net, opt=opt, replay=tree.to(empty, key.device), lwf=teacher)


def _loss(
    params: PyTree, agent: ERLwFAgent, exp: Experience, *, model: Model, heads: Tensor | None, rows: RowLosses
) -> tuple[Tensor, ERLwFAgent]:
    """`model` gives all logits; heads: [T, C] bool, the classes of each task of a multi-head model."""
    logits, agent = forward(model, params, agent, exp)
    task = mean_loss(rows, logits, exp, None if heads is None else heads.to(logits.device)[exp.tasks])
    return task + regularizers.lwf.penalty(model, logits, agent.lwf, exp, heads), agent

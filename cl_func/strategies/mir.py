"""Maximally interfered retrieval (Aljundi et al., "Online continual learning with maximal interfered retrieval", NeurIPS 2019,
section 3.1): replay what the coming step would make worst.

Of a random part of the memory, the rows (x, y) are replayed whose loss rises most under a virtual step on the minibatch B alone:
    v = theta - virtual_lr * grad L(B; theta)
    rise(x, y) = loss(x, y; v) - loss(x, y; theta)
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from cl_func import checks, memory, random, tree
from cl_func.checks import positive_int
from cl_func.core import Agent, Loss, Optimizer, Strategy, TrainStep, compose, minibatches, train_step
from cl_func.core.steps import unchecked_gradient
from cl_func.experiences import Experience
from cl_func.losses import row_losses, target_of
from cl_func.memory.kinds import RowLosses
from cl_func.models import Model
from cl_func.models.keyed import with_keys
from cl_func.optim.hyperparameters import nonnegative
from cl_func.strategies._task_loss import task_loss
from cl_func.strategies._train_state import init_train_state
from cl_func.tree import PyTree, bounded, state


@state
class MIRAgent(Agent):
    """An agent with a replay memory and the learning rate of the virtual step."""

    replay: memory.Reservoir
    virtual_lr: Tensor = bounded(partial(nonnegative, example=0.1))  # () float32


def mir(
    model: Model,
    optimizer: Optimizer,
    *,
    capacity: int,
    replay_size: int,
    candidates: int | None = None,
    virtual_lr: float = 0.1,
    loss: Loss | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Replay, with every minibatch, the rows of a reservoir memory whose loss a step on it alone would raise most.

    That step is tried as one of plain SGD, whatever the optimiser; the losses are taken in eval mode. With many candidates for each
    row replayed, or a memory hardly larger than their number, the choice narrows to a few rows, even to one class: look at
    `candidates` first where it does worse than `er`.

    Reference: Aljundi, Caccia, Belilovsky, Caccia, Lin, Charlin & Tuytelaars, "Online continual learning with maximal interfered
    retrieval", NeurIPS 2019, section 3.1.

    Hyperparameter paths: `virtual_lr`, those of the optimiser.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. The memory needs its `input_shape`.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        capacity: Rows that the memory holds, at least 1.
        replay_size: Rows of the memory replayed with every minibatch, from 1 to `capacity`.
        candidates: Random rows of the memory among which they are chosen, from `replay_size` to `capacity`; None, the default,
            takes 50, the paper's, or whichever of the two bounds is nearer to it.
        virtual_lr: Learning rate of the step that is tried, at least 0; in the paper that of the training.
        loss: What is minimised on the task, such as `cl.losses.mean_squared_error(model)`; None, the default, is the cross-entropy.
            It must say what it is on each row, as those of `cl.losses` do (see `cl.losses.for_target`).
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `MIRAgent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or the model has no `input_shape`.
    """
    checks.drawable("replay_size", replay_size, capacity)
    candidates = min(max(50, replay_size), capacity) if candidates is None else candidates
    if not replay_size <= positive_int("candidates", candidates) <= capacity:
        raise ValueError(
            f"candidates: expected at least replay_size = {replay_size} and at most capacity = {capacity}, got {candidates}."
        )
    virtual_lr = nonnegative("virtual_lr", virtual_lr, 0.1)
    task = task_loss(model, loss)
    train = train_step(task, optimizer)
    step = partial(
        _step,
        model=model,
        loss=task,
        row_losses=row_losses(loss),
        train=train,
        candidates=candidates,
        replay_size=replay_size,
    )
    empty = memory.reservoir.init(capacity, memory.sample(model, target_of(loss)))
    return Strategy(
        partial(_init, model=model, optimizer=optimizer, empty=empty, virtual_lr=virtual_lr),
        compose(
            minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
            memory.reservoir.insert(),
        ),
        model,
    )


def _init(key: Tensor, *, model: Model, optimizer: Optimizer, empty: memory.Reservoir, virtual_lr: float) -> MIRAgent:
    key, net, opt = init_train_state(key, model, optimizer)
    lr = torch.tensor(virtual_lr, device=key.device)
    return MIRAgent(key=key, model=net, opt=opt, replay=tree.to(empty, key.device), virtual_lr=lr)


def _step(
    agent: MIRAgent,
    exp: Experience,
    *,
    model: Model,
    loss: Loss,
    row_losses: RowLosses,
    train: TrainStep,
    candidates: int,
    replay_size: int,
) -> MIRAgent:
    """The Update on a minibatch: the virtual step, the choice among the candidates, and the training with those chosen."""
    key, draw_key = random.split(agent.key)
    agent = agent.replace(key=key)
    grads, moved = unchecked_gradient(loss, agent, exp)
    # The virtual pass has used up the keys of layers that draw, such as dropout, but must not move their statistics.
    agent = agent.replace(model=with_keys(agent.model, moved.model.buffers))
    params = agent.model.params
    virtual = tree.map(lambda p, g: p - agent.virtual_lr.to(p.dtype) * g, params, grads)

    rows, valid = memory.draws.distinct(agent.replay, draw_key, candidates)

    def losses(params: PyTree) -> Tensor:
        """The loss of each candidate, [n], in eval mode."""
        outputs, _ = model.apply(params, agent.model.buffers, rows["x"], train=False, task=rows["task"])
        return row_losses(outputs, rows["y"])

    rise = losses(virtual) - losses(params)
    worst = torch.topk(torch.where(valid, rise, -torch.inf), replay_size).indices
    trained: MIRAgent = train(agent, memory.join(exp, tree.map(lambda row: row[worst], rows), valid[worst]))
    return trained

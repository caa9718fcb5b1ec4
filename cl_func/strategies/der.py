"""Dark Experience Replay, DER and DER++ (Buzzega, Boschini, Porrello, Abati & Calderara, "Dark experience for general continual
learning: a strong, simple baseline", NeurIPS 2020).

    DER    L = L(minibatch) + alpha * mean_i ||z_i - f(x_i)||^2 / C                                    (eq. 6)
    DER++  L = L(minibatch) + alpha * mean_i ||z_i - f(x_i)||^2 / C + beta * mean_j L(f(x_j), y_j)

L is the cross-entropy, or the loss of other targets, whose outputs z are held in the same way. i and j are two independent draws
from the memory. After each step, as in the paper's algorithms, the minibatch is offered to the memory with the logits z that it had
in the forward pass of that very step: in train mode, under the weights before the step, at no extra cost. The loss has them at
hand, so it is the loss that returns the state with the rows inserted. Over several epochs a row is offered again in each. One
forward pass serves all rows, so batch normalisation sees them together, as in ER.
"""

from __future__ import annotations

from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from cl_func import checks, memory, random, tree
from cl_func.core import Agent, Loss, Optimizer, Strategy, minibatches, train_step
from cl_func.experiences import Experience
from cl_func.losses import logit_distance, row_losses, target_of
from cl_func.memory.kinds import RowLosses
from cl_func.models import Model, forward
from cl_func.optim.hyperparameters import nonnegative
from cl_func.strategies._task_loss import mean_loss, task_loss
from cl_func.strategies._train_state import init_train_state
from cl_func.tree import PyTree, bounded, state


@state
class DERAgent(Agent):
    """An agent whose memory stores logits."""

    replay: memory.Reservoir  # x, y, task and logits [C]
    alpha: Tensor = bounded(partial(nonnegative, example=0.5))  # () float32, weight of the distance to the stored logits


@state
class DERppAgent(DERAgent):
    """The same with labels replayed as well."""

    beta: Tensor = bounded(partial(nonnegative, example=0.5))  # () float32, weight of the replayed loss


A = TypeVar("A", bound=DERAgent)


def der(
    model: Model,
    optimizer: Optimizer,
    *,
    capacity: int,
    replay_size: int,
    alpha: float = 0.5,
    loss: Loss | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Hold rows drawn from a reservoir memory to the logits that were stored with them.

    Each minibatch is offered to the memory after its step, with the logits that it had in that step.

    Reference: Buzzega, Boschini, Porrello, Abati & Calderara, "Dark experience for general continual learning: a strong, simple
    baseline", NeurIPS 2020, eq. 6.

    Hyperparameter paths: `alpha`, those of the optimiser.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. The memory needs its `input_shape`.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        capacity: Rows that the memory holds, at least 1.
        replay_size: Rows drawn from the memory with every minibatch, from 1 to `capacity`.
        alpha: Weight of the mean squared distance to the stored logits, at least 0.
        loss: What is minimised on the task, such as `cl.losses.mean_squared_error(model)`; None, the default, is the cross-entropy.
            It must say what it is on each row, as those of `cl.losses` do (see `cl.losses.for_target`).
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `DERAgent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or the model has no `input_shape`.
    """
    scalars = {"alpha": nonnegative("alpha", alpha, 0.5)}
    n = checks.drawable("replay_size", replay_size, capacity)
    task_loss(model, loss)
    whole = partial(_der_loss, model=model, n=n, rows=row_losses(loss))
    empty = memory.reservoir.init(capacity, memory.dark.sample(model, target_of(loss)))
    return Strategy(
        partial(_init, kind=DERAgent, model=model, optimizer=optimizer, empty=empty, scalars=scalars),
        minibatches(train_step(whole, optimizer), batch_size=batch_size, epochs=epochs, iterations=iterations),
        model,
    )


def der_pp(
    model: Model,
    optimizer: Optimizer,
    *,
    capacity: int,
    replay_size: int,
    alpha: float = 0.5,
    beta: float = 0.5,
    loss: Loss | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """DER, and as many rows again, drawn independently, replayed with their labels.

    Each minibatch is offered to the memory after its step, with the logits that it had in that step.

    Reference: Buzzega, Boschini, Porrello, Abati & Calderara, "Dark experience for general continual learning: a strong, simple
    baseline", NeurIPS 2020, DER++.

    Hyperparameter paths: `alpha`, `beta`, those of the optimiser.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. The memory needs its `input_shape`.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        capacity: Rows that the memory holds, at least 1.
        replay_size: Rows drawn from the memory with every minibatch for each of the two terms, from 1 to `capacity`.
        alpha: Weight of the mean squared distance to the stored logits, at least 0.
        beta: Weight of the loss of the rows replayed with their labels, at least 0.
        loss: What is minimised on the task, such as `cl.losses.mean_squared_error(model)`; None, the default, is the cross-entropy.
            It must say what it is on each row, as those of `cl.losses` do (see `cl.losses.for_target`).
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `DERppAgent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or the model has no `input_shape`.
    """
    scalars = {"alpha": nonnegative("alpha", alpha, 0.5), "beta": nonnegative("beta", beta, 0.5)}
    n = checks.drawable("replay_size", replay_size, capacity)
    task_loss(model, loss)
    whole = partial(_der_pp_loss, model=model, n=n, rows=row_losses(loss))
    empty = memory.reservoir.init(capacity, memory.dark.sample(model, target_of(loss)))
    return Strategy(
        partial(_init, kind=DERppAgent, model=model, optimizer=optimizer, empty=empty, scalars=scalars),
        minibatches(train_step(whole, optimizer), batch_size=batch_size, epochs=epochs, iterations=iterations),
        model,
    )


def _init(
    key: Tensor, *, kind: type[A], model: Model, optimizer: Optimizer, empty: memory.Reservoir, scalars: dict[str, float]
) -> A:
    key, net, opt = init_train_state(key, model, optimizer)
    leaves = {name: torch.tensor(value, device=key.device) for name, value in scalars.items()}
    return kind(key=key, model=net, opt=opt, replay=tree.to(empty, key.device), **leaves)


def _der_loss(
    params: PyTree, agent: DERAgent, exp: Experience, *, model: Model, n: int, rows: RowLosses
) -> tuple[Tensor, DERAgent]:
    key, draw_key = random.split(agent.key)
    dark, drawn = memory.reservoir.draw(agent.replay, draw_key, n)
    logits, agent = forward(model, params, agent.replace(key=key), memory.join(exp, dark, drawn))  # replayed rows come first
    distance = logit_distance(logits[:n], dark["logits"], drawn)
    value = mean_loss(rows, logits[n:], exp) + agent.alpha * distance
    return value, memory.dark.insert(logits[n:])(agent, exp)


def _der_pp_loss(
    params: PyTree, agent: DERppAgent, exp: Experience, *, model: Model, n: int, rows: RowLosses
) -> tuple[Tensor, DERppAgent]:
    key, dark_key, label_key = random.split(agent.key, 3)
    dark, dark_drawn = memory.reservoir.draw(agent.replay, dark_key, n)
    past, past_drawn = memory.reservoir.draw(agent.replay, label_key, n)
    joined = memory.join(memory.join(exp, past, past_drawn), dark, dark_drawn)  # dark rows, past rows, the minibatch
    logits, agent = forward(model, params, agent.replace(key=key), joined)
    distance = logit_distance(logits[:n], dark["logits"], dark_drawn)
    replayed = mean_loss(rows, logits[n : 2 * n], joined.take(joined.rows[n : 2 * n], past_drawn))
    value = mean_loss(rows, logits[2 * n :], exp) + agent.alpha * distance + agent.beta * replayed
    return value, memory.dark.insert(logits[2 * n :])(agent, exp)

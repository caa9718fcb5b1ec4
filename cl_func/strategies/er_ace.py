"""Experience Replay with asymmetric cross-entropy (Caccia, Aljundi, Asadi, Tuytelaars, Pineau & Belilovsky, "New insights on
reducing abrupt representation change in online continual learning", ICLR 2022).

    L = CE(incoming rows, over the current classes) + CE(replayed rows, over all classes seen)

The classes seen are those of all experiences so far, the present one included. So new classes do not push the old ones away
before they have been told apart from each other. The current classes are those that have a row in the incoming minibatch itself,
not those of its experience: with minibatches of one class the first term is 0. Both terms are means over their rows. (The authors'
code lets classes that no experience has had compete in both terms; the paper, and this, do not.)

Only replayed rows make new and old classes compete. So, as in Algorithm 1 of the paper, a minibatch is offered to the memory right
after its step, and again in every epoch; offered at the end of the experience, its classes would not compete with the old ones
before the next.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from cl_func import checks, memory, random, tree
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.experiences import Experience, one_hot
from cl_func.losses import mark_seen, masked_cross_entropy
from cl_func.models import Model, forward
from cl_func.strategies._train_state import init_train_state
from cl_func.tree import PyTree, state


@state
class ERACEAgent(Agent):
    """An agent with a replay memory that knows which classes it has seen."""

    replay: memory.Reservoir
    seen: Tensor  # [C] bool, classes of the experiences so far


def er_ace(
    model: Model,
    optimizer: Optimizer,
    *,
    capacity: int,
    replay_size: int,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Experience replay in which the classes of a minibatch compete among themselves, and replayed rows among all classes seen.

    Each minibatch is offered to the memory after its step.

    Reference: Caccia, Aljundi, Asadi, Tuytelaars, Pineau & Belilovsky, "New insights on reducing abrupt representation change in
    online continual learning", ICLR 2022.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. The memory needs its `input_shape`.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        capacity: Rows that the memory holds, at least 1.
        replay_size: Rows drawn from the memory with every minibatch, from 1 to `capacity`.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `ERACEAgent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or the model has no `input_shape`.
    """
    checks.drawable("replay_size", replay_size, capacity)
    empty = memory.reservoir.init(capacity, memory.sample(model))
    step = train_step(partial(_loss, model=model, replay_size=replay_size), optimizer)
    return Strategy(
        partial(_init, model=model, optimizer=optimizer, empty=empty),
        compose(
            mark_seen(),
            minibatches(compose(step, memory.reservoir.insert()), batch_size=batch_size, epochs=epochs, iterations=iterations),
        ),
        model,
    )


def _init(key: Tensor, *, model: Model, optimizer: Optimizer, empty: memory.Reservoir) -> ERACEAgent:
    key, net, opt = init_train_state(key, model, optimizer)
    no_class = torch.zeros(model.n_classes, dtype=torch.bool, device=key.device)
    return ERACEAgent(key=key, model=net, opt=opt, replay=tree.to(empty, key.device), seen=no_class)


def _loss(params: PyTree, agent: ERACEAgent, exp: Experience, *, model: Model, replay_size: int) -> tuple[Tensor, ERACEAgent]:
    key, draw_key = random.split(agent.key)
    rows, drawn = memory.reservoir.draw(agent.replay, draw_key, replay_size)
    joined = memory.join(exp, rows, drawn)  # the replayed rows come first
    logits, agent = forward(model, params, agent.replace(key=key), joined)
    replayed = joined.take(joined.rows[:replay_size], drawn)
    incoming = masked_cross_entropy(logits[replay_size:], exp, _current_classes(exp))
    return incoming + masked_cross_entropy(logits[:replay_size], replayed, agent.seen), agent


def _current_classes(exp: Experience) -> Tensor:
    """The classes that have a valid row in this very minibatch, [C] bool."""
    return one_hot(exp.y, exp.valid, exp.classes.shape[-1]).any(0)

"""Experience Replay with asymmetric cross-entropy (Caccia, Aljundi, Asadi, Tuytelaars, Pineau & Belilovsky, "New insights on
reducing abrupt representation change in online continual learning", ICLR 2022).

    L = CE(incoming rows, over the current classes) + CE(replayed rows, over all classes seen)

So new classes do not push the old ones away before they have found a place of their own. The current classes are those that have
a row in the incoming minibatch itself, not those of its experience: with minibatches of one class the first term is 0. Both terms
are means over their rows. (The authors' code lets classes that were never seen compete in both terms; the paper, and this, do not.)

Only replayed rows make new and old classes compete, so a minibatch is offered to the memory as soon as it was trained on (Algorithm
1 of the paper), in every epoch anew; offered at the end of the experience, its classes would meet the old ones in the next only.
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
    """Replay `replay_size` rows with every minibatch from a reservoir of `capacity` rows; incoming rows compete among themselves.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.
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

"""Maximally interfered retrieval (Aljundi et al., "Online continual learning with maximal interfered retrieval", NeurIPS 2019,
section 3.1): replay what the coming step would make worst.

Of a random part of the memory, the rows (x, y) are replayed whose loss rises most under a virtual step on the minibatch B alone:
    v = theta - virtual_lr * grad L(B; theta)
    rise(x, y) = loss(x, y; v) - loss(x, y; theta)
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_func import checks, memory, random, tree
from cl_func.checks import positive_int
from cl_func.core import Agent, Optimizer, Strategy, compose, gradient, minibatches, train_step
from cl_func.experiences import Experience
from cl_func.losses import cross_entropy
from cl_func.models import Model
from cl_func.models.keyed import with_keys
from cl_func.optim.hyperparameters import nonnegative
from cl_func.tree import bounded, state


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
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Replay with every minibatch the `replay_size` most interfered of `candidates` random rows of a reservoir of `capacity` rows.

    candidates: by default 50, the paper's, where that is between replay_size and capacity, else the nearer of the two.
    With many candidates for each row replayed, or a memory hardly larger than their number, the choice narrows to a few rows, even
    to one class; look at `candidates` first where it does worse than ER. In the paper virtual_lr is the learning rate. The virtual
    step is plain SGD, whatever the optimiser; the candidates' losses are taken in eval mode. Raises ValueError unless
    replay_size <= candidates <= capacity.

    Hyperparameter paths: `virtual_lr`, those of the optimiser.
    """
    checks.drawable("replay_size", replay_size, capacity)
    candidates = min(max(50, replay_size), capacity) if candidates is None else candidates
    if not replay_size <= positive_int("candidates", candidates) <= capacity:
        raise ValueError(
            f"candidates: expected at least replay_size = {replay_size} and at most capacity = {capacity}, got {candidates}."
        )
    virtual_lr = nonnegative("virtual_lr", virtual_lr, 0.1)
    loss = cross_entropy(model)
    train = train_step(loss, optimizer)
    empty = memory.reservoir.init(capacity, memory.sample(model))

    def losses(agent: MIRAgent, params: Any, rows: Any) -> Tensor:
        logits, _ = model.apply(params, agent.model.buffers, rows["x"], train=False, task=rows["task"])
        return F.cross_entropy(logits, rows["y"], reduction="none")

    def step(agent: MIRAgent, exp: Experience) -> Any:
        key, draw = random.split(agent.key)
        agent = tree.replace(agent, key=key)
        grads, virtually = gradient(loss, agent, exp)
        agent = tree.replace(agent, model=with_keys(agent.model, virtually.model.buffers))
        params = agent.model.params
        virtual = tree.map(lambda p, g: p - agent.virtual_lr.to(p.dtype) * g, params, grads)

        rows, valid = memory.draws.distinct(agent.replay, draw, candidates)
        rise = losses(agent, virtual, rows) - losses(agent, params, rows)
        worst = torch.topk(torch.where(valid, rise, -torch.inf), replay_size).indices
        return train(agent, memory.join(exp, tree.map(lambda row: row[worst], rows), valid[worst]))

    def init(key: Tensor) -> MIRAgent:
        key, init_key = random.split(key)
        net = model.init(init_key)
        lr = torch.tensor(virtual_lr, device=key.device)
        return MIRAgent(key=key, model=net, opt=optimizer.init(net.params), replay=tree.to(empty, key.device), virtual_lr=lr)

    return Strategy(
        init,
        compose(
            minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
            memory.reservoir.insert(),
        ),
        model,
    )

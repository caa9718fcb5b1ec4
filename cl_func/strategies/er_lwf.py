"""Experience replay with Learning without Forgetting: old samples are replayed, and the teacher is kept on the new ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cl_func import checks, memory, random, regularizers, tree
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.experiences import Experience
from cl_func.losses import masked_cross_entropy, with_replay
from cl_func.models import Model, forward, split_heads
from cl_func.tree import state


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
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """The loss of ER plus the distillation of LwF, which sees the new rows and the replayed ones alike.

    Raises ValueError where each experience would be a single step, which no penalty can change.
    Hyperparameter paths: `lwf.strength`, `lwf.temperature`, those of the optimiser.
    """
    regularizers.lwf.hyperparameters(strength, temperature)
    regularizers.quadratic._check_several_steps(batch_size, epochs, iterations)

    plain, heads = split_heads(model)

    def loss(params: Any, agent: Any, exp: Experience) -> tuple[Tensor, Any]:
        logits, agent = forward(plain, params, agent, exp)
        task = masked_cross_entropy(logits, exp, None if heads is None else heads.to(logits.device)[exp.tasks])
        return task + regularizers.lwf.penalty(plain, logits, agent.lwf, exp, heads), agent

    step = train_step(with_replay(loss, checks.drawable("replay_size", replay_size, capacity)), optimizer)
    empty = memory.reservoir.init(capacity, memory.sample(model))

    def init(key: Tensor) -> ERLwFAgent:
        key, init_key = random.split(key)
        net = model.init(init_key)
        teacher = regularizers.lwf.init(net, model.n_classes, strength, temperature)
        return ERLwFAgent(key=key, model=net, opt=optimizer.init(net.params), replay=tree.to(empty, key.device), lwf=teacher)

    return Strategy(
        init,
        compose(
            regularizers.lwf.snapshot(),
            minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
            memory.reservoir.insert(),
        ),
        model,
    )

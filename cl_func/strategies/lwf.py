"""Learning without Forgetting (Li & Hoiem, TPAMI 2018): learn the new classes, keep the old ones' answers on the new inputs.

As in the paper's Algorithm 1 the two losses are apart: the cross-entropy is over the new classes alone, the distillation over the
old classes alone. (Let all classes compete in the cross-entropy and it pushes down the old ones faster than the teacher can hold
them.) With a multi-head model, each old head is kept on the new inputs, as in the paper.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cl_func import checks, random, regularizers
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.experiences import Experience
from cl_func.losses import masked_cross_entropy
from cl_func.models import Model, forward, split_heads
from cl_func.tree import state


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
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Cross-entropy over the experience's classes, distillation over those seen before; the teacher is the model before it.

    With `cl.models.multi_head(model, masks)`: cross-entropy over the head of each row's task, distillation of each old head.
    Raises ValueError where each experience would be a single step, which no penalty can change.
    Hyperparameter paths: `lwf.strength`, `lwf.temperature`, those of the optimiser.
    """
    checks.model("model", model)
    regularizers.lwf.hyperparameters(strength, temperature)
    regularizers.quadratic._check_several_steps(batch_size, epochs, iterations)

    plain, heads = split_heads(model)

    def loss(params: Any, agent: Any, exp: Experience) -> tuple[Tensor, Any]:
        logits, agent = forward(plain, params, agent, exp)
        task = masked_cross_entropy(logits, exp, exp.classes if heads is None else heads.to(logits.device)[exp.tasks])
        return task + regularizers.lwf.penalty(plain, logits, agent.lwf, exp, heads), agent

    step = train_step(loss, optimizer)

    def init(key: Tensor) -> LwFAgent:
        key, init_key = random.split(key)
        net = model.init(init_key)
        teacher = regularizers.lwf.init(net, model.n_classes, strength, temperature)
        return LwFAgent(key=key, model=net, opt=optimizer.init(net.params), lwf=teacher)

    return Strategy(
        init,
        compose(
            regularizers.lwf.snapshot(),
            minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
        ),
        model,
    )

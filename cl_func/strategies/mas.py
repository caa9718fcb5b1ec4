"""Memory Aware Synapses (Aljundi et al., ECCV 2018): hold the parameters that the model's outputs are sensitive to."""

from __future__ import annotations

from torch import Tensor

from cl_func import random, regularizers
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.losses import cross_entropy, total
from cl_func.models import Model
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
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Cross-entropy plus strength / 2 * sum_k importance_k * (p_k - anchor_k)^2 (eq. 4; their lambda is strength / 2).

    After each experience importance <- decay * importance + mean_i |d ||f(x_i)||^2 / d p|; the paper's decay is 1.
    importance_batch_size: how many single-row gradients are held at a time; by default the batch size.
    importance_samples: how many rows the sensitivity is the mean of; by default all of the experience.
    Raises ValueError where each experience would be a single step, which no penalty can change.
    Hyperparameter paths: `mas.strength`, `mas.decay`, those of the optimiser.
    """
    check = regularizers.quadratic._check_numbers
    check(strength=strength, decay=decay, importance_batch_size=importance_batch_size, importance_samples=importance_samples)
    regularizers.quadratic._check_several_steps(batch_size, epochs, iterations)
    step = train_step(total(cross_entropy(model), regularizers.quadratic.loss("mas")), optimizer)
    chunk = importance_batch_size or batch_size

    def init(key: Tensor) -> MASAgent:
        key, init_key = random.split(key)
        net = model.init(init_key)
        held = regularizers.mas.init(net.params, strength, decay)
        return MASAgent(key=key, model=net, opt=optimizer.init(net.params), mas=held)

    return Strategy(
        init,
        compose(
            minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
            regularizers.mas.consolidate(model, batch_size=chunk, samples=importance_samples),
        ),
        model,
    )

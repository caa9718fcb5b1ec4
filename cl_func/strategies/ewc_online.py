"""Online Elastic Weight Consolidation (Schwarz et al., "Progress & compress", ICML 2018): one anchor, importances that fade."""

from __future__ import annotations

from torch import Tensor

from cl_func import random, regularizers
from cl_func.core import Optimizer, Strategy, compose, minibatches, train_step
from cl_func.losses import cross_entropy, total
from cl_func.models import Model
from cl_func.regularizers.importance import Labels
from cl_func.strategies.ewc import EWCAgent


def ewc_online(
    model: Model,
    optimizer: Optimizer,
    *,
    strength: float,
    decay: float = 1.0,
    labels: Labels = "true",
    importance_batch_size: int | None = None,
    importance_samples: int | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Cross-entropy plus strength / 2 * sum_k importance_k * (p_k - anchor_k)^2, anchored where the last experience ended.

    After each experience importance <- decay * (importance + F) (eq. 8 and 9; gamma there). The other arguments are as in `ewc`.
    Raises ValueError where each experience would be a single step, which no penalty can change.
    Hyperparameter paths: `ewc.strength`, `ewc.decay`, those of the optimiser.
    """
    check = regularizers.quadratic._check_numbers
    check(strength=strength, decay=decay, importance_batch_size=importance_batch_size, importance_samples=importance_samples)
    regularizers.quadratic._check_several_steps(batch_size, epochs, iterations)
    step = train_step(total(cross_entropy(model), regularizers.quadratic.loss("ewc")), optimizer)
    chunk = importance_batch_size or batch_size

    def init(key: Tensor) -> EWCAgent:
        key, init_key = random.split(key)
        net = model.init(init_key)
        held = regularizers.ewc.init(net.params, strength, decay)
        return EWCAgent(key=key, model=net, opt=optimizer.init(net.params), ewc=held)

    return Strategy(
        init,
        compose(
            minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
            regularizers.ewc.consolidate(model, labels=labels, batch_size=chunk, samples=importance_samples),
        ),
        model,
    )

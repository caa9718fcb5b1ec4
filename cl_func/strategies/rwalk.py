"""Riemannian Walk (Chaudhry, Dokania, Ajanthan & Torr, ECCV 2018): EWC and SI in one, both kept up to date at each step."""

from __future__ import annotations

from torch import Tensor

from cl_func import random, regularizers
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches
from cl_func.losses import cross_entropy
from cl_func.models import Model
from cl_func.regularizers.importance import Labels
from cl_func.tree import state


@state
class RWalkAgent(Agent):
    """An agent with a running Fisher information and the scores of its path."""

    rwalk: regularizers.RWalk


def rwalk(
    model: Model,
    optimizer: Optimizer,
    *,
    strength: float,
    alpha: float = 0.9,
    damping: float = 1e-3,
    interval: int = 10,
    labels: Labels = "true",
    importance_batch_size: int | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Cross-entropy plus strength / 2 * sum_k (fisher_k + score_k) * (p_k - anchor_k)^2 (eq. 8; their lambda is strength / 2).

    alpha: the weight of the newest minibatch in the running Fisher information (eq. 6), float in [0, 1].
    interval: how many steps a piece of the path is scored over (Delta t, eq. 7); damping: epsilon there.
    labels, importance_batch_size: as in `ewc`. The Fisher information of every minibatch is taken row by row, which costs a
    gradient for each row and the memory for as many as are held at a time.
    Raises ValueError where each experience would be a single step, which no penalty can change.
    Hyperparameter paths: `rwalk.strength`, `rwalk.alpha`, `rwalk.damping`, those of the optimiser.
    """
    regularizers.quadratic._check_numbers(
        strength=strength, alpha=alpha, damping=damping, importance_batch_size=importance_batch_size
    )
    track = regularizers.rwalk.track(model, labels=labels, batch_size=importance_batch_size)
    step = regularizers.path.train_step(cross_entropy(model), optimizer, slot="rwalk")
    score = regularizers.rwalk.score(interval=interval)
    regularizers.quadratic._check_several_steps(batch_size, epochs, iterations)

    def init(key: Tensor) -> RWalkAgent:
        key, init_key = random.split(key)
        net = model.init(init_key)
        held = regularizers.rwalk.init(net.params, strength, alpha, damping)
        return RWalkAgent(key=key, model=net, opt=optimizer.init(net.params), rwalk=held)

    return Strategy(
        init,
        compose(
            minibatches(compose(track, step, score), batch_size=batch_size, epochs=epochs, iterations=iterations),
            regularizers.rwalk.consolidate(),
        ),
        model,
    )

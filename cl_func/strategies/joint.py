"""Joint training: at each experience, start anew and train on everything so far. The upper bound of class-incremental learning.

Run it on `cl.streams.cumulative(benchmark)`, whose experience i holds the rows of experiences 0..i (views: no data is
copied). On the plain stream the same Update is the baseline "from scratch", which keeps nothing of earlier experiences.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cl_func import random, tree
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.losses import cross_entropy
from cl_func.models import Model
from cl_func.tree import PyTree, state


def _restored(now: Tensor, start: Tensor) -> Tensor:
    """Moments and counters as at the start; a hyperparameter, a floating leaf of shape (), keeps what a sweep has set."""
    return now if now.ndim == 0 and now.is_floating_point() else start


@state
class Joint(Agent):
    """An agent that remembers how it was initialised."""

    start: PyTree  # (ModelState, the optimiser's state)


def restart(agent: Any, exp: Any) -> Any:
    """The Update that goes back to the initial weights, moments and counters in `agent.start`."""
    model, opt = agent.start
    return agent.replace(model=model, opt=tree.map(_restored, agent.opt, opt))


def joint(
    model: Model,
    optimizer: Optimizer,
    *,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Retrain from the initial weights on the experience given; for `cl.streams.cumulative` streams.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.
    """
    step = train_step(cross_entropy(model), optimizer)

    def init(key: Tensor) -> Joint:
        key, weights = random.split(key)
        net = model.init(weights)
        opt = optimizer.init(net.params)
        return Joint(key=key, model=net, opt=opt, start=(net, opt))

    train = minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations)
    return Strategy(init, compose(restart, train), model)

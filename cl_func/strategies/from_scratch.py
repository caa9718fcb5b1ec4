"""From scratch: at each experience, forget everything and train on that experience alone.

One of four baselines, which are two Updates on two streams:

                                  on the stream itself    on `cl.streams.cumulative(benchmark)`
    the weights are kept          naive                   cumulative
    the weights start anew        from_scratch            joint

What an experience alone can teach: what `naive` gains over it is forward transfer.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cl_func import tree
from cl_func.core import Agent, Optimizer, Strategy, compose
from cl_func.models import Model
from cl_func.strategies.naive import naive
from cl_func.tree import PyTree, state


@state
class FromScratch(Agent):
    """An agent that remembers how it was initialised."""

    start: PyTree  # (ModelState, the optimiser's state)


def from_scratch(
    model: Model,
    optimizer: Optimizer,
    *,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Restart from the initial weights, then train as `naive` does on the experience given.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.
    """
    base = naive(model, optimizer, batch_size=batch_size, epochs=epochs, iterations=iterations)

    def init(key: Tensor) -> FromScratch:
        agent = base.init(key)
        return FromScratch(key=agent.key, model=agent.model, opt=agent.opt, start=(agent.model, agent.opt))

    return Strategy(init, compose(restart, base.update), model)


def restart(agent: Any, exp: Any) -> Any:
    """The Update back to the weights and the optimiser's state of the start; hyperparameters stay."""
    model, opt = agent.start
    return agent.replace(model=model, opt=tree.map(_restored, agent.opt, opt))


def _restored(now: Tensor, start: Tensor) -> Tensor:
    """Moments and counters as at the start; a hyperparameter, a floating leaf of shape (), keeps what a sweep has set."""
    return now if now.ndim == 0 and now.is_floating_point() else start

"""From scratch: at each experience, forget everything and train on that experience alone.

One of four baselines, which are two Updates on two streams:

                                  on the stream itself    on `cl.streams.cumulative(benchmark)`
    the weights are kept          naive                   cumulative
    the weights start anew        from_scratch            joint

What an experience alone can teach: what `naive` gains over it is forward transfer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from cl_func import tree
from cl_func.core import Agent, Loss, Optimizer, Strategy, compose
from cl_func.models import Model
from cl_func.models.keyed import with_keys
from cl_func.strategies.naive import naive
from cl_func.tree import PyTree, state


@state
class FromScratchAgent(Agent):
    """An agent that remembers how its first experience found it."""

    start: PyTree  # (ModelState, the optimiser's state)
    fresh: Tensor  # () bool, whether the first experience is still to come


S = TypeVar("S", bound=FromScratchAgent)


def from_scratch(
    model: Model,
    optimizer: Optimizer,
    *,
    loss: Loss | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Restart from the initial weights at each experience, then train on that experience alone, as `naive` does.

    What a sweep sets before the run, such as the learning rate, holds in every experience.

    Reference: Rusu et al., "Progressive neural networks", arXiv 2016, where transfer is measured against this baseline.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        loss: What is minimised on the task, such as `cl.losses.mean_squared_error(model)`; None, the default, is the cross-entropy.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `FromScratchAgent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, or both `epochs` and `iterations` are given.
    """
    base = naive(model, optimizer, loss=loss, batch_size=batch_size, epochs=epochs, iterations=iterations)
    return Strategy(partial(_init, base=base.init), compose(_restart, base.update), model)


def _init(key: Tensor, *, base: Callable[[Tensor], Agent]) -> FromScratchAgent:
    agent = base(key)
    fresh = torch.tensor(True, device=key.device)
    return FromScratchAgent(key=agent.key, model=agent.model, opt=agent.opt, start=(agent.model, agent.opt), fresh=fresh)


def _restart(agent: S, exp: Any) -> S:
    """The Update back to the weights and the optimiser's state, hyperparameters included, that the first experience found.

    So what a sweep sets before the run holds in every experience, and what a schedule did in one is undone in the next.
    """
    model, opt = start = tree.where(agent.fresh, (agent.model, agent.opt), agent.start)
    return agent.replace(model=with_keys(model, agent.model.buffers), opt=opt, start=start, fresh=torch.zeros_like(agent.fresh))

"""GDumb (Prabhu, Torr & Dokania, "GDumb: a simple approach that questions our progress in continual learning", ECCV 2020): keep
a greedily balanced memory and, when asked, train from the initial weights on it alone.

Here it is asked at the end of each experience. What it learned of an experience and did not store is lost, so its accuracy is what
the memory alone is worth.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from cl_func import memory, tree
from cl_func.core import Optimizer, Strategy, compose, train_step
from cl_func.losses import cross_entropy
from cl_func.models import Model
from cl_func.strategies._train_state import init_train_state
from cl_func.strategies.from_scratch import FromScratchAgent, _restart
from cl_func.tree import state


@state
class GDumbAgent(FromScratchAgent):
    """An agent with a greedily balanced memory that remembers how it was initialised."""

    replay: memory.GDumb


def gdumb(
    model: Model,
    optimizer: Optimizer,
    *,
    capacity: int,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Store an experience in a memory of `capacity` rows, then train anew on the memory in minibatches of `batch_size` of its rows.

    `epochs` are passes over the memory. batch_size=None takes the whole memory as one minibatch; in an online stream every
    experience, however short, is followed by a training.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.
    """
    step = train_step(cross_entropy(model), optimizer)
    empty = memory.gdumb.init(capacity, memory.sample(model), model.n_classes)
    return Strategy(
        partial(_init, model=model, optimizer=optimizer, empty=empty),
        compose(
            memory.gdumb.insert(),
            _restart,
            memory.rehearse(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
        ),
        model,
    )


def _init(key: Tensor, *, model: Model, optimizer: Optimizer, empty: memory.GDumb) -> GDumbAgent:
    key, net, opt = init_train_state(key, model, optimizer)
    fresh = torch.tensor(True, device=key.device)
    return GDumbAgent(key=key, model=net, opt=opt, start=(net, opt), fresh=fresh, replay=tree.to(empty, key.device))

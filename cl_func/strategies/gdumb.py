"""GDumb (Prabhu, Torr & Dokania, "GDumb: a simple approach that questions our progress in continual learning", ECCV 2020): keep
a greedily balanced memory and, when asked, train from the initial weights on it alone.

Here it is asked at the end of each experience. Rows that were not stored teach nothing, so its accuracy is what the memory alone is
worth.
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
    """Store each experience in a greedily balanced memory, then train anew on the memory alone.

    In an online stream every experience, however short, is followed by a whole training.

    Reference: Prabhu, Torr & Dokania, "GDumb: a simple approach that questions our progress in continual learning", ECCV 2020.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. The memory needs its `input_shape`.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        capacity: Rows that the memory holds, at least 1.
        batch_size: Rows of the memory per minibatch, at least 1; None, the default, takes the whole memory as one minibatch.
        epochs: Passes over the memory after each experience, at least 1.
        iterations: Minibatches after each experience, at least 1, instead of whole passes; then `epochs` must be 1. None by
            default.

    Returns:
        A Strategy with the state `GDumbAgent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or the model has no `input_shape`.
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

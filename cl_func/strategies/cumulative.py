"""Cumulative training, on the stream `cl.streams.cumulative(benchmark)`: go on with the same weights on everything so far.

What replay would do with a memory for all data. It is `naive` on that stream, whose experience i holds the rows of the experiences
0..i (as views: no data is copied). Beside `joint` it shows what a warm start is worth, or costs (Ash & Adams, "On warm-starting
neural network training", NeurIPS 2020).
"""

from __future__ import annotations

from cl_func.core import Loss, Optimizer, Strategy
from cl_func.models import Model
from cl_func.strategies.naive import naive


def cumulative(
    model: Model,
    optimizer: Optimizer,
    *,
    loss: Loss | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Go on training with the same weights on everything seen so far; to be run on `cl.streams.cumulative(benchmark)`.

    It is `naive` on that stream. Beside `joint` it shows what a warm start is worth, or costs.

    Reference: Ash & Adams, "On warm-starting neural network training", NeurIPS 2020.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        loss: What is minimised on the task, such as `cl.losses.mean_squared_error(model)`; None, the default, is the cross-entropy.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `Agent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, or both `epochs` and `iterations` are given.
    """
    return naive(model, optimizer, loss=loss, batch_size=batch_size, epochs=epochs, iterations=iterations)

"""Joint training, on the stream `cl.streams.cumulative(benchmark)`: at each experience, start anew and train on everything so far.

The upper bound of class-incremental learning. It is `from_scratch` on that stream, whose experience i holds the rows of the
experiences 0..i (as views: no data is copied).
"""

from __future__ import annotations

from cl_func.core import Loss, Optimizer, Strategy
from cl_func.models import Model
from cl_func.strategies.from_scratch import from_scratch


def joint(
    model: Model,
    optimizer: Optimizer,
    *,
    loss: Loss | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Retrain from the initial weights on everything seen so far; to be run on `cl.streams.cumulative(benchmark)`.

    It is `from_scratch` on that stream, and the upper bound of most comparisons.

    Reference: van de Ven, Tuytelaars & Tolias, "Three types of incremental learning", Nature Machine Intelligence 2022, where it is
    the upper target.

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
    return from_scratch(model, optimizer, loss=loss, batch_size=batch_size, epochs=epochs, iterations=iterations)

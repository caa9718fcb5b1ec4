"""Joint training, on the stream `cl.streams.cumulative(benchmark)`: at each experience, start anew and train on everything so far.

The upper bound of class-incremental learning. It is `from_scratch` on that stream, whose experience i holds the rows of experiences
0..i (views: no data is copied).
"""

from __future__ import annotations

from cl_func.core import Optimizer, Strategy
from cl_func.models import Model
from cl_func.strategies.from_scratch import from_scratch


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
    return from_scratch(model, optimizer, batch_size=batch_size, epochs=epochs, iterations=iterations)

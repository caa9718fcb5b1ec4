"""Cumulative training, on the stream `cl.streams.cumulative(benchmark)`: go on with the same weights on everything so far.

What replay with a memory for all data would do.

It is `naive` on that stream, whose experience i holds the rows of experiences 0..i (views: no data is copied). Against `joint` it
shows what a warm start is worth, or costs (Ash & Adams, "On warm-starting neural network training", NeurIPS 2020).
"""

from __future__ import annotations

from cl_func.core import Optimizer, Strategy
from cl_func.models import Model
from cl_func.strategies.naive import naive


def cumulative(
    model: Model,
    optimizer: Optimizer,
    *,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Go on training on the experience given; for `cl.streams.cumulative` streams.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.
    """
    return naive(model, optimizer, batch_size=batch_size, epochs=epochs, iterations=iterations)

"""Choosing hyperparameters without looking at the test data.

    point = cl.select.validation(0.1).choose(strategy, bench, cl.grid({"opt.lr": [0.03, 0.1, 0.3]}), seeds=5)
    runs = cl.sweep(strategy, bench, seeds=5, hparams=point)       # tables of these runs say how the point was chosen

A selection runs the strategy at the points of a grid on data of its own, with seeds other than those of the report, and gives the
best point. `published` gives values that others have found.
"""

from cl_func.select.halving import Halving, successive_halving
from cl_func.select.literature import Published, published
from cl_func.select.selections import Selection, first_experiences, oracle, validation
from cl_func.sweeps.chosen import Chosen

__all__ = [
    "Chosen",
    "Halving",
    "Published",
    "Selection",
    "first_experiences",
    "oracle",
    "published",
    "successive_halving",
    "validation",
]

"""Optimisers, gradient clipping and learning-rate schedules, with hyperparameters that are leaves of the state.

An optimiser is an object with `init(params) -> state` and `update(grads, state, params) -> (updates, state)`; the updates are
added to the parameters by `cl.train_step`. Any object with these two methods serves as well.
"""

from cl_func.optim.adam import AdamState, adam, adamw
from cl_func.optim.clipping import chain, clip_by_global_norm, clip_by_value
from cl_func.optim.schedules import cosine_decay, exponential_decay, restart, schedule, step_decay
from cl_func.optim.sgd import SGDState, sgd

__all__ = [
    "AdamState",
    "SGDState",
    "adam",
    "adamw",
    "chain",
    "clip_by_global_norm",
    "clip_by_value",
    "cosine_decay",
    "exponential_decay",
    "restart",
    "schedule",
    "sgd",
    "step_decay",
]

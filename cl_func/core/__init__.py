"""Updates and how they compose: `(state, exp) -> state`, folded over minibatches, over experiences, over anything in order.

Four kinds of pure functions make a method:
    Update             (state, exp) -> state
    Loss               (params, state, exp) -> (scalar, state)
    GradientTransform  (grads, state, exp) -> (grads, state)
    Probe              (state, exp) -> tree of tensors
"""

from cl_func.core.epochs import Minibatches, SkipEmpty, minibatches
from cl_func.core.kinds import Agent, GradientTransform, Loss, Optimizer, Probe, Strategy, Update, resolve
from cl_func.core.nodes import Combinator
from cl_func.core.steps import TrainStep, gradient, train_step
from cl_func.core.updates import At, Compose, Repeat, at, compose, maybe_init, repeat, when

__all__ = [
    "Agent",
    "At",
    "Combinator",
    "Compose",
    "GradientTransform",
    "Loss",
    "Minibatches",
    "Optimizer",
    "Probe",
    "Repeat",
    "SkipEmpty",
    "Strategy",
    "TrainStep",
    "Update",
    "at",
    "compose",
    "gradient",
    "maybe_init",
    "minibatches",
    "repeat",
    "resolve",
    "train_step",
    "when",
]

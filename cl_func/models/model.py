"""A model is two pure functions: `init(key) -> ModelState` and `apply(params, buffers, x) -> (logits, buffers)`.

    logits [n, C], buffers' = apply(params, buffers, x [n, ...], train=, valid=, task=)

Whatever a forward pass moves (batch-norm statistics, the keys of dropout) is a buffer: it goes in and comes out, and nothing is
changed in place. What a loss is differentiated by are the params. `forward` does this for an agent and an experience.
A model may also give the features before its last layer, `features(params, buffers, x) -> [n, F]`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.experiences import Experience
from cl_func.tree import state


@state
class ModelState:
    """The tensors of a model by their names in the module, such as "0.weight"."""

    params: dict[str, Tensor]  # what is trained, floating
    buffers: dict[str, Tensor]  # what is not: statistics, keys of dropout, frozen parameters


@dataclasses.dataclass(frozen=True)
class Model:
    """A model's functions and sizes; it holds no weights, so one Model serves any number of runs.

    init: `(key) -> ModelState`, key () int64.
    apply: `(params, buffers, x, *, train=False, valid=None, task=None) -> (logits, buffers)` with x [n, ...] and logits
        [n, n_classes]. `valid` [n] bool marks the rows that are not padding, `task` [n] int64 is the task label of each row. With
        train=False the very buffers that came in are returned.
    n_classes: the number of logits C.
    input_shape: the shape of one sample, from which replay memories allocate; None if any will do.
    features: `(params, buffers, x, *, valid=None, task=None) -> [n, F]`, what the last layer is given, always in eval mode; None if
        the model does not tell, and then methods that classify by features refuse it.
    """

    init: Callable[[Tensor], ModelState]
    apply: Callable[..., tuple[Tensor, dict[str, Tensor]]]
    n_classes: int
    input_shape: tuple[int, ...] | None = None
    features: Callable[..., Tensor] | None = None

    def __post_init__(self) -> None:
        checks.function("init", self.init, "a function from a key to a ModelState")
        checks.function("apply", self.apply, "a function (params, buffers, x, ...) -> (logits, buffers)")
        checks.positive_int("n_classes", self.n_classes)
        if self.input_shape is not None:
            checks.sizes("input_shape", self.input_shape)
        if self.features is not None:
            checks.function("features", self.features)


def feature_function(model: Model) -> Callable[..., Tensor]:
    """`model.features`. Raises ValueError for a model without."""
    checks.model("model", model)
    if model.features is None:
        raise ValueError(
            "model: this method works on the features before the last layer, which this model does not tell; build it with "
            "from_module(factory, ..., last_layer=NAME), the name of its last layer, or give Model(..., features=function)."
        )
    return model.features


def features(model: Model, state: ModelState, x: Tensor, valid: Tensor | None = None, task: Tensor | None = None) -> Tensor:
    """The features [n, F] of x under the weights of a model, in eval mode.

    Raises ValueError for a model without features.
    """
    return feature_function(model)(state.params, state.buffers, x, valid=valid, task=task)


def sample_features(model: Model, state: ModelState) -> Tensor:
    """The features [F] of one input of zeros, for allocation. Raises ValueError without features or `input_shape`."""
    checks.model("model", model)
    checks.instance("state", state, ModelState, "the ModelState of model.init(key)")
    if model.input_shape is None:
        raise ValueError(
            "model: to allocate for its features one must know the shape of an input; "
            "build the model with from_module(factory, n_classes=..., input_shape=(...))."
        )
    like = next(iter(tree.leaves(state.params)))
    task = torch.zeros(1, dtype=torch.int64, device=like.device)
    return features(model, state, like.new_zeros((1, *model.input_shape)), torch.ones_like(task, dtype=torch.bool), task)[0]


def forward(model: Model, params: dict[str, Tensor], state: Any, exp: Experience, *, train: bool = True) -> tuple[Tensor, Any]:
    """The logits [n, C] of an experience's rows under `params`, and the agent with moved buffers; for use in losses.

    If no buffer moved (there are none, or train=False) the state is returned as it is, the same object.
    """
    if not isinstance(exp, Experience):
        raise checks.type_error("exp", "an Experience", exp)
    if not isinstance(model, Model):
        checks.model("model", model)
    try:
        old = state.model.buffers
    except AttributeError:
        raise checks.no_agent("state", state, "model") from None
    try:
        logits, new = model.apply(params, old, exp.x, train=train, valid=exp.valid, task=exp.tasks)
    except (RuntimeError, ValueError) as error:
        lanes = getattr(getattr(state, "key", None), "ndim", 0)
        if lanes:
            raise ValueError("state: it holds several lanes; map over them: cl.vmap(update), and cl.vmap(probe) too.") from error
        raise
    if all(value is old[name] for name, value in new.items()):
        return logits, state
    return logits, tree.replace(state, model=tree.replace(state.model, buffers=new))

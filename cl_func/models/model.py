"""A model is two pure functions: `init(key) -> ModelState` and `apply(params, buffers, x) -> (logits, buffers)`.

    logits [n, C], buffers' = apply(params, buffers, x [n, ...], train=, valid=, task=)

Whatever a forward pass updates (batch-norm statistics, the keys of dropout) is a buffer: it goes in and comes out, and nothing is
changed in place. Losses are differentiated by the params. `forward` applies a model for an agent and an experience.
A model may also give the features before its last layer, `features(params, buffers, x) -> [n, F]`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from cl_func import checks, signatures, tree
from cl_func.experiences import Experience
from cl_func.tree import state


@state
class ModelState:
    """The tensors of a model by their names in the module, such as "0.weight"."""

    params: dict[str, Tensor]  # what is trained, floating
    buffers: dict[str, Tensor]  # what is not: statistics, keys of dropout, frozen parameters


class _HasModel(Protocol):
    """The state of an agent with a model."""

    @property
    def model(self) -> Any: ...


S = TypeVar("S", bound=_HasModel)


class Apply(Protocol):
    """The forward pass of a model."""

    def __call__(
        self,
        params: dict[str, Tensor],
        buffers: dict[str, Tensor],
        x: Tensor,
        /,
        *,
        train: bool = False,
        valid: Tensor | None = None,
        task: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]: ...


class Features(Protocol):
    """The forward pass of a model without its last layer, in eval mode."""

    def __call__(
        self,
        params: dict[str, Tensor],
        buffers: dict[str, Tensor],
        x: Tensor,
        /,
        *,
        valid: Tensor | None = None,
        task: Tensor | None = None,
    ) -> Tensor: ...


Fresh = Callable[[Tensor, dict[str, Tensor]], dict[str, Tensor]]  # (key, params) -> newly drawn parameters like params


@dataclasses.dataclass(frozen=True)
class Model:
    """A model's functions and sizes; it holds no weights, so one Model serves any number of runs.

    init: `(key) -> ModelState`, key () int64.
    apply: `(params, buffers, x, *, train=False, valid=None, task=None) -> (logits, buffers)` with x [n, ...] and logits
        [n, n_classes]. `valid` [n] bool marks the rows that are not padding, `task` [n] int64 is the task label of each row. With
        train=False the buffers are returned as they are, the same object.
    n_classes: the number of logits C.
    input_shape: the shape of one sample, by which replay memories are allocated; None if any will do.
    features: `(params, buffers, x, *, valid=None, task=None) -> [n, F]`, the input of the last layer, always in eval mode; None if
        the model cannot give it, and then methods that classify by features refuse the model.
    fresh: `(key, params) -> params`, newly drawn parameters like `params`, all or some of the model's, from a key () int64, of the
        distribution that `init` draws from though not its values. It builds nothing, so that Updates may call it, vmapped and
        compiled, to draw units anew: `torch.where(chosen, fresh, old)`. None if the model cannot give it. To draw a few rows only,
        see `cl_func.models.fresh_rows`.
    input_dtype: torch.int64 for a model that takes whole numbers, such as tokens; otherwise the floating dtype in which replay
        memories store inputs.
    """

    init: Callable[[Tensor], ModelState]
    apply: Apply
    n_classes: int
    input_shape: tuple[int, ...] | None = None
    features: Features | None = None
    fresh: Fresh | None = None
    input_dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        signatures.function("init", self.init, 1, "a function from a key to a ModelState")
        expected = "a function (params, buffers, x, *, train, valid, task) -> (logits, buffers)"
        signatures.function("apply", self.apply, 3, expected, keywords=("train", "valid", "task"))
        checks.positive_int("n_classes", self.n_classes)
        if self.input_shape is not None:
            checks.sizes("input_shape", self.input_shape)
        if self.features is not None:
            expected = "a function (params, buffers, x, *, valid, task) -> features [n, F]"
            signatures.function("features", self.features, 3, expected, keywords=("valid", "task"))
        if self.fresh is not None:
            signatures.function("fresh", self.fresh, 2, "a function (key, params) -> params")
        input_kind(self.input_dtype)

    def __repr__(self) -> str:
        parts = [_name(self.apply)]
        parts += [f"input_shape={self.input_shape}"] if self.input_shape is not None else []
        parts += [f"n_classes={self.n_classes}"]
        parts += [f"input_dtype={self.input_dtype}"] if self.input_dtype != torch.float32 else []
        return f"Model({', '.join(parts)})"


def _name(apply: Any) -> str:
    """What a model is made by: the file of this folder, such as mlp, or the name of a function of one's own."""
    while isinstance(apply, functools.partial):
        apply = apply.func
    module = getattr(apply, "__module__", None) or ""
    if module.startswith("cl_func.models."):
        return module.rpartition(".")[2]
    return str(getattr(apply, "__qualname__", type(apply).__qualname__))


def input_kind(dtype: Any) -> torch.dtype:
    """Check the dtype of a model's inputs, int64 or floating; TypeError otherwise."""
    if not isinstance(dtype, torch.dtype) or not (dtype.is_floating_point or dtype == torch.int64):
        raise checks.type_error("input_dtype", "torch.int64 or a floating dtype", dtype)
    return dtype


def feature_function(model: Model) -> Features:
    """`model.features`. Raises ValueError for a model without features."""
    checks.model("model", model)
    if model.features is None:
        raise ValueError(
            "model: this method works on the features before the last layer, which this model does not give; build it with "
            "from_module(factory, ..., last_layer=NAME), the name of its last layer, or give Model(..., features=function)."
        )
    return model.features


def fresh_function(model: Model) -> Fresh:
    """`model.fresh`. Raises ValueError for a model without it."""
    checks.model("model", model)
    if model.fresh is None:
        raise ValueError(
            "model: this method draws parameters anew, for which this model has no function; give it one, "
            "dataclasses.replace(model, fresh=function of (key, params)), or build it with from_module(factory, ...)."
        )
    return model.fresh


def features(model: Model, state: ModelState, x: Tensor, valid: Tensor | None = None, task: Tensor | None = None) -> Tensor:
    """The features [n, F] of x [n, ...] under the weights of a model, in eval mode.

    valid: [n] bool, the rows that are not padding; task: [n] int64, the task label of each row.
    Raises TypeError or ValueError for a state of another model, other inputs, and a model without features.
    """
    checks.instance("state", state, ModelState, "the ModelState of model.init(key)")
    return feature_function(model)(state.params, state.buffers, x, valid=valid, task=task)


def sample_features(model: Model, state: ModelState) -> Tensor:
    """The features [F] of an input of zeros, for allocation. Raises ValueError for a model without features or `input_shape`."""
    checks.model("model", model)
    checks.instance("state", state, ModelState, "the ModelState of model.init(key)")
    if model.input_shape is None:
        raise ValueError(
            "model: to allocate for its features one must know the shape of an input; "
            "build the model with from_module(factory, n_classes=..., input_shape=(...))."
        )
    like = next(iter(tree.leaves(state.params)))
    task = torch.zeros(1, dtype=torch.int64, device=like.device)
    return features(model, state, zero_input(model, like), torch.ones_like(task, dtype=torch.bool), task)[0]


def zero_input(model: Model, like: Tensor) -> Tensor:
    """An input [1, ...] of zeros for a model with `input_shape`: int64 if it takes tokens, else of the dtype of a tensor."""
    assert model.input_shape is not None
    whole = model.input_dtype == torch.int64
    return like.new_zeros((1, *model.input_shape), dtype=torch.int64 if whole else like.dtype)


def forward(model: Model, params: dict[str, Tensor], state: S, exp: Experience, *, train: bool = True) -> tuple[Tensor, S]:
    """The logits [n, C] of an experience's rows under `params`, and the agent with updated buffers; for use in losses.

    If no buffer has changed (there are none, or train=False) the state is returned as it is, the same object.
    """
    if not isinstance(exp, Experience):
        raise checks.type_error("exp", "an Experience", exp)
    if not isinstance(model, Model):
        checks.model("model", model)
    try:
        net: ModelState = state.model
        old = net.buffers
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
    return logits, tree.replace(state, model=tree.replace(net, buffers=new))

"""A projection of a model's features in place of its logits, for losses that compare rows (Chen, Kornblith, Norouzi & Hinton, "A
simple framework for contrastive learning of visual representations", ICML 2020).

    apply(params, buffers, x) = g(h(x)),    g = W h  or  W2 relu(W1 h + b1) + b2

h are the features: what the model's last linear layer is given (a cosine layer takes them at length 1). They are read while the
forward pass runs, so that they are those of a training pass and have gradients. The last layer itself is not trained.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cl_func import checks, random, tree
from cl_func.models.augmented import Augmented, augmented, split_augment
from cl_func.models.cosine import unit
from cl_func.models.fresh import fresh_rows
from cl_func.models.heads import split_heads
from cl_func.models.model import Features, Model, ModelState, feature_function, zero_input
from cl_func.models.module import from_module

_PREFIX = "projection."


def projected(model: Model, size: int = 128, head: Literal["linear", "mlp"] = "mlp") -> Model:
    """The model whose outputs are projections [n, size] of its features, with a head that is trained along with it.

    The state has the head's parameters beside the model's, named "projection....", and `features` are the model's. So a loss of
    the outputs trains the features, and what is done with the features afterwards needs no head. The masks of a multi-head model
    are dropped; an augmented model remains augmented.

    size: outputs of the head. head: "mlp" has one hidden layer, as wide as the features, "linear" has none.

    >>> from cl_func.models import mlp
    >>> model = projected(mlp(64, hidden=(32,), n_classes=10), size=16)
    >>> net = model.init(random.key(0))
    >>> model.apply(net.params, net.buffers, torch.zeros(5, 64), train=True)[0].shape, sorted(net.params)[-2:]
    (torch.Size([5, 16]), ['projection.2.bias', 'projection.2.weight'])

    Raises TypeError or ValueError for other arguments, for a model without features or `input_shape`, and for one whose features
    are not what the linear layer that runs last is given.
    """
    checks.positive_int("size", size)
    checks.choice("head", head, "linear", "mlp")
    feature_function(model)
    if model.input_shape is None:
        raise ValueError("model: its features are tried on one input; build it with from_module(factory, ..., input_shape=(...)).")
    augment = split_augment(model)[1]
    plain, _ = split_heads(model)
    if isinstance(plain.apply, Augmented):
        plain = plain.apply.model
    net = plain.init(random.key(0))
    like = _check(plain, net)
    taken = [name for name in (*net.params, *net.buffers) if name.startswith(_PREFIX)]
    if taken:
        raise ValueError(f"model: its tensor {taken[0]!r} has the name of one of the projection's; give that layer another name.")
    made = _Projected(plain, _head_model(like, size, head))
    whole = Model(
        partial(_init, made),
        made,
        size,
        plain.input_shape,
        partial(_features, feature_function(plain)),
        None if plain.fresh is None else partial(_fresh, made),
        plain.input_dtype,
    )
    return whole if augment is None else augmented(whole, augment)


def _head_model(like: Tensor, size: int, head: str) -> Model:
    width = like.shape[1]
    factory = partial(_head, width, size, head, like.dtype)
    return from_module(factory, n_classes=size, input_shape=(width,), input_dtype=like.dtype)


def _head(width: int, size: int, head: str, dtype: torch.dtype) -> nn.Module:
    if head == "linear":
        return nn.Sequential(nn.Linear(width, size, bias=False, dtype=dtype))
    return nn.Sequential(nn.Linear(width, width, dtype=dtype), nn.ReLU(), nn.Linear(width, size, dtype=dtype))


@dataclasses.dataclass(frozen=True, eq=False)
class _Projected:
    """The `apply` of a projected model."""

    model: Model
    head: Model

    def __call__(
        self,
        params: dict[str, Tensor],
        buffers: dict[str, Tensor],
        x: Tensor,
        *,
        train: bool = False,
        valid: Tensor | None = None,
        task: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        own, head = split(params)
        if train:
            features, buffers = trained_features(self.model, own, buffers, x, valid, task)
        else:
            features = feature_function(self.model)(own, buffers, x, valid=valid, task=task)
        return self.head.apply(head, {}, features, train=train)[0], buffers


def trained_features(
    model: Model, params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, valid: Tensor | None, task: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The features [n, F] in a training pass, and the buffers after it."""
    with _Watch() as watch:
        _, buffers = model.apply(params, buffers, x, train=True, valid=valid, task=task)
    assert watch.last is not None  # `_check` has seen one
    return watch.last, buffers


class _Watch(TorchFunctionMode):
    """Records the inputs of the linear layer that runs last."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            self.last = kwargs["input"] if "input" in kwargs else args[0]
        return func(*args, **kwargs)


def _check(model: Model, net: ModelState) -> Tensor:
    """The features of one row, [1, F]; ValueError unless the linear layer that runs last is given them, up to their length."""
    first = next(iter(net.params.values()))
    x = zero_input(model, first)
    if x.is_floating_point():
        x = random.uniform(random.key(1), tuple(x.shape)).to(x)
    task = torch.zeros(1, dtype=torch.int64)
    features = feature_function(model)(net.params, net.buffers, x, valid=task == 0, task=task)
    with _Watch() as watch:
        model.apply(net.params, net.buffers, x, valid=task == 0, task=task)
    found = watch.last
    if found is None or found.shape != features.shape or not torch.allclose(unit(found), unit(features), atol=1e-5):
        raise ValueError(
            "model: the linear layer that runs last is not given its features, so they cannot be read in a training pass; end its "
            "forward pass in nn.Linear, and name this layer in from_module(factory, ..., last_layer=NAME)."
        )
    return features


def unprojected(net: ModelState) -> ModelState:
    """The state of the model itself, out of that of the projected one; the same for a state that has no projection."""
    return tree.replace(net, params=split(net.params)[0])


def split(params: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters of the model itself, and those of the head by their names in it."""
    checks.instance("params", params, dict, "the tensors of a model by name")
    own = {name: value for name, value in params.items() if not name.startswith(_PREFIX)}
    return own, {name.removeprefix(_PREFIX): value for name, value in params.items() if name.startswith(_PREFIX)}


def _joined(own: dict[str, Tensor], head: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**own, **{_PREFIX + name: value for name, value in head.items()}}


def _init(made: _Projected, key: Tensor) -> ModelState:
    net: ModelState = made.model.init(key)
    head = made.head.init(random.fold_in(key, _CHILD))
    return ModelState(params=_joined(net.params, head.params), buffers=net.buffers)


def _fresh(made: _Projected, key: Tensor, params: dict[str, Tensor], rows: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    parts = zip((made.model, made.head), (key, random.fold_in(key, _CHILD)), split(params), split(rows or {}), strict=True)
    own, head = (fresh_rows(model)(part_key, part, chosen) if part else {} for model, part_key, part, chosen in parts)
    return _joined(own, head)


_CHILD = int.from_bytes(b"head", "big")  # layers of the model that draw have the children 0, 1, 2, ...


def _features(
    function: Features,
    params: dict[str, Tensor],
    buffers: dict[str, Tensor],
    x: Tensor,
    *,
    valid: Tensor | None = None,
    task: Tensor | None = None,
) -> Tensor:
    return function(split(params)[0], buffers, x, valid=valid, task=task)

"""What hidden units do on the rows of a minibatch, read where it counts: at the inputs of the layers that they lead to.

There a unit's activation is behind its norm, its pooling and its activation function, with a value for each feature of the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cl_func.experiences import Experience
from cl_func.models.model import Model, ModelState
from cl_func.plasticity.layers import Feed, Layer
from cl_func.plasticity.trial import CONVOLUTIONS, by_position, layer_arguments
from cl_func.tree import describe


def layer_inputs(model: Model, net: ModelState, exp: Experience, weights: Sequence[str]) -> dict[str, Tensor]:
    """What some layers are given for the rows of an experience, in eval mode: weight's name -> [n, positions, features]."""
    with _Inputs({id(net.params[name]): name for name in weights}) as watch:
        model.apply(net.params, net.buffers, exp.x, train=False, valid=exp.valid, task=exp.tasks)
    for name in weights:
        if name not in watch.seen or watch.seen[name].shape[0] != len(exp):
            given = describe(watch.seen[name]) if name in watch.seen else "nothing"
            raise ValueError(f"model: the layer of {name!r} is given {given} for {len(exp)} rows; keep rows on the first axis.")
    return watch.seen


def average(x: Tensor, valid: Tensor) -> Tensor:
    """The mean over the valid rows and the positions of x [n, positions, ...]."""
    kind = torch.promote_types(x.dtype, torch.float32)
    rows = torch.where(valid.reshape(-1, *[1] * (x.ndim - 2)), x.to(kind).mean(1), 0)
    return rows.sum(0) / valid.sum().clamp(min=1)


def of_units(layer: Layer, parts: Callable[[Feed], Tensor]) -> Tensor:
    """Something of each feature, [..., F] for each layer that is fed, as [..., units, features of a unit]."""
    return torch.cat([feed.features.of(parts(feed)) for feed in layer.feeds], -1)


def mean_value(layer: Layer, inputs: dict[str, Tensor], valid: Tensor) -> Tensor:
    """The mean of each feature of each unit, [units, features of a unit]."""
    return of_units(layer, lambda feed: average(inputs[feed.weight], valid))


def mean_size(layer: Layer, inputs: dict[str, Tensor], valid: Tensor, center: Tensor | None = None) -> Tensor:
    """The mean of |h| of each feature of each unit, or of |h - center|, [units, features of a unit]."""
    sizes, first = [], 0
    for feed in layer.feeds:
        h = feed.features.of(inputs[feed.weight])
        if center is not None:
            h = h - center[:, first : first + h.shape[-1]].to(h.dtype)
        sizes.append(average(h.abs(), valid))
        first += h.shape[-1]
    return torch.cat(sizes, -1)


class _Inputs(TorchFunctionMode):
    """Records the inputs of layers by their weights' names."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names, self.seen = names, dict[str, Tensor]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear or func in CONVOLUTIONS:
            given = layer_arguments(func, args, kwargs)
            name = self.names.get(id(given["weight"]))
            if name is not None:
                self.seen[name] = by_position(given["input"], func is F.linear)
        return func(*args, **kwargs)

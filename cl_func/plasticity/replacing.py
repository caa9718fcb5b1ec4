"""Replacing hidden units: new incoming weights, outgoing weights of 0, and an optimiser that knows nothing of the old ones.

    in of unit i:   <- as the model's initialisation draws it, biases included; of its norms, scale 1, shift 0, statistics 0 and 1
    out of unit i:  <- 0, so the model's outputs do not change by what the new unit gives
    moments of both <- 0

Layers are taken in the order in which they run, as in the code of Dohare et al.: where units of two layers are replaced at once,
the weights between them are those of the later one's new units. All is chosen by masks, so it can be vmapped and compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optree
import torch
from torch import Tensor

from cl_func import tree
from cl_func.models.model import Fresh, ModelState
from cl_func.plasticity.layers import Feed, Layer, Norm
from cl_func.tree import NAMESPACE, PyTree


def replace_units(
    agent: Any,
    key: Tensor,
    layers: Sequence[Layer],
    chosen: dict[str, Tensor],
    fresh: Fresh,
    means: dict[str, Tensor] | None = None,
) -> Any:
    """The agent with some hidden units drawn anew: `chosen` has a mask [units] bool for each layer by name; `fresh`: the model's.

    means: for each layer what the features of its units were on average, [units, features of a unit], in the order of its `feeds`;
        what the units that go have contributed on average is then added to the biases of the layers that they led to.
    """
    masks = list(chosen.values())
    if all(tree._is_eager_cpu(mask) for mask in masks) and not any(bool(mask.any()) for mask in masks):
        return agent
    net: ModelState = agent.model
    params, buffers = dict(net.params), dict(net.buffers)
    owned = {name: net.params[name] for layer in layers for name in _own(layer)}
    drawn = fresh(key, owned)
    touched: dict[str, Tensor] = {}

    def change(name: str, where: Tensor, new: Tensor | float) -> None:
        params[name] = torch.where(where, new, params[name])
        touched[name] = touched[name] | where if name in touched else where

    for layer in layers:
        mask = chosen[layer.name]
        for name in (layer.weight, layer.bias):
            if name is not None:
                change(name, _along(mask, params[name], 0), drawn[name])
        for norm in layer.norms:
            for name in norm.params:
                change(name, _of_features(norm, mask, params[name], 0), drawn[name])
            for name, first in norm.statistics:
                buffers[name] = torch.where(_of_features(norm, mask, buffers[name], 0), first, buffers[name])
        first = 0
        for fed in layer.feeds:
            weight, size = params[fed.weight], fed.features.copies * fed.features.positions
            gone = _of_features(fed, mask, weight, 1)
            if means is not None and fed.bias is not None:
                mean = fed.features.spread(means[layer.name][:, first : first + size], weight.shape[1]).to(weight.dtype)
                lost = torch.where(gone, weight * _along(mean, weight, 1), 0)
                params[fed.bias] = params[fed.bias] + lost.flatten(1).sum(1)
            change(fed.weight, gone, 0.0)
            first += size

    def forget(slots: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.where(touched[name], 0, value) if name in touched else value for name, value in slots.items()}

    return agent.replace(model=tree.replace(net, params=params, buffers=buffers), opt=map_slots(forget, agent.opt, net.params))


def _own(layer: Layer) -> list[str]:
    """The names of the parameters that come into the units of a layer."""
    own = [layer.weight, *([] if layer.bias is None else [layer.bias])]
    return own + [name for norm in layer.norms for name in norm.params]


def _along(values: Tensor, like: Tensor, axis: int) -> Tensor:
    """Values [n] as a tensor that broadcasts along an axis of another."""
    return values.reshape([-1 if i == axis else 1 for i in range(like.ndim)])


def _of_features(fed: Feed | Norm, mask: Tensor, like: Tensor, axis: int) -> Tensor:
    return _along(fed.features.spread(mask, like.shape[axis]), like, axis)


def map_slots(function: Callable[[dict[str, Tensor]], Any], opt: PyTree, params: dict[str, Tensor]) -> PyTree:
    """An optimiser's state with a function applied to whatever in it has a value for each value of the parameters."""

    def like_params(node: Any) -> bool:
        return (
            isinstance(node, dict)
            and node.keys() == params.keys()
            and all(isinstance(value, Tensor) and value.shape == params[name].shape for name, value in node.items())
        )

    return optree.tree_map(
        lambda node: function(node) if like_params(node) else node, opt, is_leaf=like_params, namespace=NAMESPACE
    )

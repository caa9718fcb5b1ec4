"""Replacing hidden units: new incoming weights, outgoing weights of 0, and an optimiser that knows nothing of the old ones.

    in of unit i:   <- as the model's initialisation draws it, biases included; of its norms, scale 1, shift 0, statistics 0 and 1
    out of unit i:  <- 0, so the model's outputs do not change by what the new unit gives
    moments of both <- 0

Layers are taken in the order in which they run, as in the code of Dohare et al.: where units of two layers are replaced at once,
the weights between them are those of the later one's new units. All is chosen by masks, so it can be vmapped and compiled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import optree
import torch
from torch import Tensor

from cl_func import tree
from cl_func.models.fresh import FreshRows
from cl_func.models.model import ModelState
from cl_func.plasticity.layers import Feed, Layer, Norm
from cl_func.torch_private import is_eager_cpu
from cl_func.tree import NAMESPACE, PyTree


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The units of a layer that are replaced: a mask [units] bool, and, if they are few, which they may be.

    rows [m] int64: m units, different ones, among which all of the chosen are; None: it may be any of them.
    """

    mask: Tensor
    rows: Tensor | None = None


def replace_units(
    agent: Any,
    key: Tensor,
    layers: Sequence[Layer],
    chosen: Sequence[Chosen],
    fresh: FreshRows,
    means: Sequence[Tensor] | None = None,
) -> Any:
    """The agent with some hidden units drawn anew: those chosen of each layer. `fresh`: `fresh_rows(model)`.

    means: for each layer what the features of its units were on average, [units, features of a unit], in the order of its `feeds`;
        what the units that go have contributed on average is then added to the biases of the layers that they led to.
    """
    if all(is_eager_cpu(one.mask) for one in chosen) and not any(bool(one.mask.any()) for one in chosen):
        return agent
    net: ModelState = agent.model
    params, buffers = dict(net.params), dict(net.buffers)
    owned = {name: net.params[name] for layer in layers for name in _own(layer)}
    rows = {layer.weight: one.rows for layer, one in zip(layers, chosen, strict=True) if one.rows is not None}
    drawn = fresh(key, owned, rows)
    touched: dict[str, Tensor] = {}

    def change(name: str, where: Tensor, new: Tensor | float) -> None:
        params[name] = torch.where(where, new, params[name])
        touch(name, where)

    def touch(name: str, where: Tensor) -> None:
        touched[name] = touched[name] | where if name in touched else where

    for i, layer in enumerate(layers):
        mask = chosen[i].mask
        where, weight = _along(mask, params[layer.weight], 0), params[layer.weight]
        params[layer.weight] = _put(weight, drawn[layer.weight], chosen[i])
        touch(layer.weight, where)
        if layer.bias is not None:
            change(layer.bias, mask, drawn[layer.bias])
        for norm in layer.norms:
            for name in norm.params:
                change(name, _of_features(norm, mask, params[name], 0), drawn[name])
            for name, first in norm.statistics:
                buffers[name] = torch.where(_of_features(norm, mask, buffers[name], 0), first, buffers[name])
        start = 0
        for feed in layer.feeds:
            weight, size = params[feed.weight], feed.features.copies * feed.features.positions
            gone = _of_features(feed, mask, weight, 1)
            if means is not None and feed.bias is not None:
                mean = feed.features.spread(means[i][:, start : start + size], weight.shape[1]).to(weight.dtype)
                lost = torch.where(gone, weight * _along(mean, weight, 1), 0)
                params[feed.bias] = params[feed.bias] + lost.flatten(1).sum(1)
            change(feed.weight, gone, 0.0)
            start += size

    def forget(slots: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.where(touched[name], 0, value) if name in touched else value for name, value in slots.items()}

    return agent.replace(model=tree.replace(net, params=params, buffers=buffers), opt=map_slots(forget, agent.opt, net.params))


def _put(weight: Tensor, drawn: Tensor, chosen: Chosen) -> Tensor:
    """A weight with the rows of the chosen units replaced by those drawn, of all units or of `chosen.rows`."""
    if chosen.rows is None:
        return torch.where(_along(chosen.mask, weight, 0), drawn, weight)
    kept = weight.index_select(0, chosen.rows)
    new = torch.where(_along(chosen.mask.index_select(0, chosen.rows), kept, 0), drawn, kept)
    return weight.index_copy(0, chosen.rows, new)


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

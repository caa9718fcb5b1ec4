"""The multi-layer perceptron of most continual-learning benchmarks: linear layers with ReLU between, on flattened inputs.

    h_0 = flatten(x),    h_{l+1} = relu(W_l h_l + b_l),    logits = W_L h_L + b_L

With a cosine head the logits are scaled cosines of h_L and the rows of W_L, see `cosine.py`, and h_L has no ReLU (as in Hou et al.
2019), so that it can point in any direction.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_func import checks
from cl_func.checks import positive_int
from cl_func.models.cosine import CosineLinear, cosine_logits
from cl_func.models.model import Model, ModelState
from cl_func.models.seeding import seeded
from cl_func.tree import describe


def mlp(
    n_features: int,
    hidden: Sequence[int] = (256, 256),
    n_classes: int = 10,
    *,
    head: Literal["linear", "cosine"] = "linear",
) -> Model:
    """A ReLU MLP: x [n, ...] floating, flattened to [n, n_features], to logits [n, n_classes].

    Names and initial weights are those of nn.Sequential(nn.Linear, nn.ReLU, nn.Linear, ...): "0.weight", "0.bias", "2.weight", ...
    `hidden=()` gives a linear classifier, whose features are the flattened inputs. With head="cosine" the last layer is a
    `CosineLinear`: no bias, but a scale, the leaf `model.params.4.scale` of an agent whose net has two hidden layers.
    `apply` raises ValueError if x has another number of features, TypeError if it is not floating.

    >>> from cl_func import random
    >>> mlp(64, hidden=(32,)).init(random.key(0)).params["2.weight"].shape
    torch.Size([10, 32])
    """
    if not isinstance(hidden, (tuple, list)):
        raise TypeError(f"hidden: expected the widths of the hidden layers such as (256, 256), got {hidden!r}.")
    widths = (
        positive_int("n_features", n_features),
        *(positive_int("hidden", width) for width in hidden),
        positive_int("n_classes", n_classes),
    )
    checks.choice("head", head, "linear", "cosine")
    cosine, last = head == "cosine", 2 * len(hidden)
    names = {f"{2 * i}.{name}" for i in range(len(hidden)) for name in ("weight", "bias")}
    names |= {f"{last}.weight", f"{last}.scale" if cosine else f"{last}.bias"}
    net = _Layout(widths, cosine, frozenset(names))
    return Model(partial(_init, net), partial(_apply, net), n_classes, (n_features,), partial(_features, net))


@dataclasses.dataclass(frozen=True)
class _Layout:
    """The sizes of an MLP's layers, from its inputs to its logits, and whether its head is a cosine head."""

    widths: tuple[int, ...]
    cosine: bool
    names: frozenset[str]  # of the parameters


def _init(net: _Layout, key: Tensor) -> ModelState:
    params = {}
    with seeded(key):
        for i, (inputs, outputs) in enumerate(itertools.pairwise(net.widths)):
            made = CosineLinear if net.cosine and i == len(net.widths) - 2 else nn.Linear
            layer: nn.Module = made(inputs, outputs)
            params.update({f"{2 * i}.{name}": value.detach() for name, value in layer.named_parameters()})
    return ModelState(params={name: value.to(key.device) for name, value in params.items()}, buffers={})


def _apply(
    net: _Layout,
    params: dict[str, Tensor],
    buffers: dict[str, Tensor],
    x: Tensor,
    *,
    train: bool = False,
    valid: Tensor | None = None,
    task: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    h = _features(net, params, buffers, x)
    last = 2 * (len(net.widths) - 2)
    if net.cosine:
        return cosine_logits(h, params[f"{last}.weight"], params[f"{last}.scale"]), buffers
    return F.linear(h, params[f"{last}.weight"], params[f"{last}.bias"]), buffers


def _features(
    net: _Layout,
    params: dict[str, Tensor],
    buffers: dict[str, Tensor],
    x: Tensor,
    *,
    valid: Tensor | None = None,
    task: Tensor | None = None,
) -> Tensor:
    # Written out: functional_call on an nn.Sequential takes half as long again in eager mode.
    if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
        raise TypeError(f"x: expected a floating tensor, got {describe(x)}; convert it with x.float().")
    if not isinstance(params, dict) or params.keys() != net.names or not isinstance(buffers, dict) or buffers:
        names = ", ".join(sorted(net.names))
        raise checks.type_error("params, buffers", f"those of this model's init: {names}", (params, buffers))
    first = params["0.weight"]
    if x.dtype != first.dtype:
        raise TypeError(f"x: the weights are {describe(first)}, got {describe(x)}; convert the data with x.to({first.dtype}).")
    if x.device != first.device:
        raise ValueError(f"x: on {x.device}, but the weights are on {first.device}; move one with .to(device).")
    if x.ndim < 2 or x[0].numel() != net.widths[0]:
        raise ValueError(f"x: expected [n, ...] with n_features = {net.widths[0]} values per row, got {describe(x)}.")
    h = x.flatten(1)
    last = len(net.widths) - 2
    for i in range(last):
        h = F.linear(h, params[f"{2 * i}.weight"], params[f"{2 * i}.bias"])
        h = h if net.cosine and i == last - 1 else torch.relu(h)
    return h

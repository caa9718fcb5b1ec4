"""The multi-layer perceptron of most continual-learning benchmarks: linear layers with an activation between, on flattened inputs.

    h_0 = flatten(x),    h_{l+1} = drop(act(norm(W_l h_l + b_l))),    logits = W_L h_L + b_L

act is ReLU unless told otherwise; norm and drop are left out unless asked for. "crelu" is the concatenated ReLU,

    crelu(z) = [relu(z), relu(-z)]

which feeds on two values for each unit and never has all of a unit at 0 (Shang, Sohn, Almeida & Lee, "Understanding and improving
convolutional neural networks via concatenated rectified linear units", ICML 2016; against loss of plasticity: Abbas et al. 2023).
With a cosine head the logits are scaled cosines of h_L and the rows of W_L, see `cosine.py`, and h_L has no activation (as in Hou
et al. 2019), so that it can point in any direction.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_func import checks, random
from cl_func.checks import positive_int
from cl_func.models.cosine import CosineLinear, cosine_logits
from cl_func.models.fresh import check_arguments, uniform
from cl_func.models.model import Model, ModelState
from cl_func.models.module import from_module
from cl_func.models.seeding import seeded
from cl_func.tree import describe


def mlp(
    n_features: int,
    hidden: Sequence[int] = (256, 256),
    n_classes: int = 10,
    *,
    head: Literal["linear", "cosine"] = "linear",
    activation: Literal["relu", "crelu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "identity"] = "relu",
    norm: Literal["layer", "batch"] | None = None,
    dropout: float = 0.0,
) -> Model:
    """An MLP: x [n, ...] floating, flattened to [n, n_features], to logits [n, n_classes].

    Names and initial weights are those of nn.Sequential(nn.Linear, nn.ReLU, nn.Linear, ...): "0.weight", "0.bias", "2.weight", ...
    `hidden=()` gives a linear classifier, whose features are the flattened inputs. With head="cosine" the last layer is a
    `CosineLinear`: no bias, but a scale, the leaf `model.params.4.scale` of an agent whose net has two hidden layers.
    `apply` raises ValueError if x has another number of features, TypeError if it is not floating.

    activation: the function between two layers, with torch's defaults ("gelu" is the exact one). "crelu" doubles the width that is
        fed on: the layer after 32 units has 64 inputs.
    norm: "layer" for nn.LayerNorm, "batch" for `BatchNorm` (whose statistics are buffers) before each activation.
    dropout: the probability in [0, 1) with which `Dropout` zeroes each value after an activation, in train mode.
        Both take places in the nn.Sequential: with a norm and dropout the layers are called "0", "4", "8", ...

    >>> from cl_func import random
    >>> mlp(64, hidden=(32,)).init(random.key(0)).params["2.weight"].shape
    torch.Size([10, 32])
    >>> mlp(64, hidden=(32,), activation="crelu").init(random.key(0)).params["2.weight"].shape
    torch.Size([10, 64])
    """
    if not isinstance(hidden, (tuple, list)):
        raise TypeError(f"hidden: expected the widths of the hidden layers such as (256, 256), got {hidden!r}.")
    widths = (
        positive_int("n_features", n_features),
        *(positive_int("hidden", width) for width in hidden),
        positive_int("n_classes", n_classes),
    )
    cosine = checks.choice("head", head, "linear", "cosine") == "cosine"
    checks.choice("activation", activation, *_ACTIVATIONS)
    checks.choice("norm", norm, "layer", "batch", None)
    dropout = checks.number("dropout", dropout, 0, 1, ends="[)")
    net = _layout(widths, cosine, activation)
    if norm is not None or dropout > 0:
        factory = partial(_Stack, net, norm, dropout)
        last = len(hidden) * (2 + (norm is not None) + (dropout > 0))
        return from_module(factory, n_classes=n_classes, input_shape=(n_features,), last_layer=str(last))
    return Model(partial(_init, net), partial(_apply, net), n_classes, (n_features,), partial(_features, net), partial(_fresh, net))


def _crelu(z: Tensor) -> Tensor:
    return torch.relu(torch.cat([z, -z], -1))


def _identity(z: Tensor) -> Tensor:
    return z


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "crelu": _crelu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "identity": _identity,
}


@dataclasses.dataclass(frozen=True)
class _Layout:
    """The layers of an MLP, from its inputs to its logits, its activation, and whether its head is a cosine head."""

    layers: tuple[tuple[int, int], ...]  # the inputs and outputs of each
    cosine: bool
    activation: str
    names: frozenset[str]  # of the parameters


def _layout(widths: tuple[int, ...], cosine: bool, activation: str) -> _Layout:
    last = len(widths) - 2
    doubled = range(1, last if cosine else last + 1) if activation == "crelu" else ()
    layers = tuple((2 * n if i in doubled else n, m) for i, (n, m) in enumerate(itertools.pairwise(widths)))
    names = {f"{2 * i}.{name}" for i in range(last) for name in ("weight", "bias")}
    names |= {f"{2 * last}.weight", f"{2 * last}.scale" if cosine else f"{2 * last}.bias"}
    return _Layout(layers, cosine, activation, frozenset(names))


def _init(net: _Layout, key: Tensor) -> ModelState:
    params = {}
    with seeded(key):
        for i, (inputs, outputs) in enumerate(net.layers):
            made = CosineLinear if net.cosine and i == len(net.layers) - 1 else nn.Linear
            layer: nn.Module = made(inputs, outputs)
            params.update({f"{2 * i}.{name}": value.detach() for name, value in layer.named_parameters()})
    return ModelState(params={name: value.to(key.device) for name, value in params.items()}, buffers={})


def _fresh(net: _Layout, key: Tensor, params: dict[str, Tensor], rows: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Weights and biases uniform within 1 / sqrt(inputs) of 0, the initialisation of nn.Linear; a cosine head's scale is 10."""
    sizes: dict[str, tuple[int, ...]] = {}
    for i, (inputs, outputs) in enumerate(net.layers):
        sizes |= {f"{2 * i}.weight": (outputs, inputs), f"{2 * i}.bias": (outputs,)}
    if net.cosine:
        last = 2 * (len(net.layers) - 1)
        del sizes[f"{last}.bias"]
        sizes[f"{last}.scale"] = ()
    check_arguments(key, params, sizes)
    keys = dict(zip(sizes, random.split(key, len(sizes)), strict=True))
    made = {}
    for name, old in params.items():
        layer, _, part = name.partition(".")
        bound = 1 / math.sqrt(net.layers[int(layer) // 2][0])
        chosen = None if rows is None else rows.get(name)
        made[name] = torch.full_like(old, 10.0) if part == "scale" else uniform(keys[name], bound, old, chosen)
    return made


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
    last = 2 * (len(net.layers) - 1)
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
    if x.ndim < 2 or x[0].numel() != net.layers[0][0]:
        raise ValueError(f"x: expected [n, ...] with n_features = {net.layers[0][0]} values per row, got {describe(x)}.")
    h = x.flatten(1)
    last, activation = len(net.layers) - 1, _ACTIVATIONS[net.activation]
    for i in range(last):
        h = F.linear(h, params[f"{2 * i}.weight"], params[f"{2 * i}.bias"])
        h = h if net.cosine and i == last - 1 else activation(h)
    return h


class _Activation(nn.Module):
    """One of the activations, by its name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, z: Tensor) -> Tensor:
        return _ACTIVATIONS[self.name](z)

    def extra_repr(self) -> str:
        return self.name


class _Stack(nn.Sequential):
    """The same layers with a norm before and dropout after each activation, as a module."""

    def __init__(self, net: _Layout, norm: str | None, dropout: float) -> None:
        layers: list[nn.Module] = []
        last = len(net.layers) - 1
        for i, (inputs, outputs) in enumerate(net.layers[:-1]):
            layers.append(nn.Linear(inputs, outputs))
            if norm is not None:
                layers.append(nn.LayerNorm(outputs) if norm == "layer" else nn.BatchNorm1d(outputs))
            layers.append(_Activation("identity" if net.cosine and i == last - 1 else net.activation))
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        layers.append((CosineLinear if net.cosine else nn.Linear)(*net.layers[-1]))
        super().__init__(*layers)
        self.n_features = net.layers[0][0]

    def forward(self, input: Tensor) -> Tensor:
        if input[0].numel() != self.n_features:
            raise ValueError(f"x: expected [n, ...] with n_features = {self.n_features} values per row, got {describe(input)}.")
        logits: Tensor = super().forward(input.flatten(1))
        return logits

"""The hidden activations of a model, layer by layer: what probes of plasticity look at, dormant units and effective ranks.

    h_l [n, units of l] = act(z_l),    z_l from the outputs of layer l, a linear layer or a convolution

While the model runs, calls of activation functions are intercepted. Each is counted to the layer that ran last before it, known
by its weight, the very tensor in `params`: so a unit of "0" is a row of "0.weight". This works for every Model, written with
modules or with functions, leaves no hook behind, and is as pure as the forward pass itself, vmapped and compiled as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cl_func import checks
from cl_func.experiences import Experience
from cl_func.models.model import Model, ModelState
from cl_func.tree import describe

_NAMES = ["celu", "elu", "gelu", "glu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish", "prelu"]
_NAMES += ["relu", "relu6", "rrelu", "selu", "sigmoid", "silu", "softplus", "softsign", "tanh", "threshold"]
_ACTIVATIONS = {
    getattr(owner, name + suffix)
    for name in _NAMES
    for suffix in ("", "_")
    for owner in (torch, F, Tensor)
    if hasattr(owner, name + suffix)
}
_LINEAR = {F.linear}
_PRODUCTS = {torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum, F.bilinear, Tensor.matmul, Tensor.mm}
_PRODUCTS |= {Tensor.bmm, Tensor.__matmul__, Tensor.__rmatmul__, F.scaled_dot_product_attention}
_CONVOLUTIONS = {getattr(F, f"conv{kind}{n}d") for kind in ("", "_transpose") for n in (1, 2, 3)}


def activations(model: Model, net: ModelState, exp: Experience) -> dict[str, Tensor]:
    """The hidden activations of an experience's rows, in eval mode: the name of each layer -> [n, units], in the order they run.

    A layer is called as its weight is, "0" for "0.weight", and its units are that weight's rows (twice as many for "crelu", those
    of -z last). Several activations after one layer are "0", "0:2", ...; a layer whose weight is no tensor of the model is called
    by the function, such as "relu". Of activations at several positions of a row, after convolutions [n, units, ...] and of linear
    layers [n, ..., units], it is the mean over the positions. Rows of padding are among the n: weigh them by `exp.valid`.

    What no layer or product of matrices follows is an output, not a hidden activation, such as a tanh at the end.

    What is an activation is known by torch's functions and modules: one written by hand from torch.tanh is seen as this tanh, and
    the gates of recurrent layers, which run in one piece, are not seen.

    Raises TypeError for other arguments; ValueError for a model that runs no activation function, and for activations that do not
    keep rows on the first axis.

    >>> from cl_func import models, random, testing
    >>> model, exp = models.mlp(6, hidden=(8, 5), n_classes=4), testing.small_benchmark().train[0]
    >>> found = activations(model, model.init(random.key(0)), exp)
    >>> {name: list(values.shape) for name, values in found.items()}
    {'0': [14, 8], '2': [14, 5]}
    """
    checks.model("model", model)
    checks.instance("net", net, ModelState, "the ModelState of model.init(key)")
    checks.instance("exp", exp, Experience, "an Experience")
    return _seen(model, net, exp, lambda h: h)


def activity(model: Model, net: ModelState, exp: Experience) -> dict[str, Tensor]:
    """The same of absolute values: of activations at several positions the mean of |h|, in which +h and -h do not cancel."""
    return _seen(model, net, exp, torch.abs)


def _seen(model: Model, net: ModelState, exp: Experience, of: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    with _Watch({**net.params, **net.buffers}, len(exp), of) as watch:
        model.apply(net.params, net.buffers, exp.x, train=False, valid=exp.valid, task=exp.tasks)
    if not watch.hidden:
        raise ValueError(
            "model: it runs no activation function that is known, such as torch.relu or nn.GELU, before its last layer, so it has "
            "no hidden activations; write its activations with those of torch."
        )
    return dict(itertools.islice(watch.seen.items(), watch.hidden))


class _Watch(TorchFunctionMode):
    """Records the results [n, units] of activation functions by the layer that ran last."""

    def __init__(self, tensors: dict[str, Tensor], n: int, of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.of = of
        self.names, self.n = {id(value): name.rpartition(".")[0] or name for name, value in tensors.items()}, n
        self.layer: str | None = None
        self.last_axis = True  # whether the layer's units are on the last axis, or on the second
        self.seen: dict[str, Tensor] = {}
        self.hidden = 0  # how many of those a layer has followed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func in _LINEAR or func in _CONVOLUTIONS:
            weight = kwargs["weight"] if "weight" in kwargs else args[1]
            self.layer, self.last_axis = self.names.get(id(weight)), func in _LINEAR
            self.hidden = len(self.seen)
        elif func in _PRODUCTS:
            self.hidden = len(self.seen)
        elif func in _ACTIVATIONS:
            self.record(self.layer or func.__name__.rstrip("_"), out)
        return out

    def record(self, name: str, values: Tensor) -> None:
        if values.ndim < 2 or values.shape[0] != self.n:
            raise ValueError(
                f"model: the activations after layer {name!r} are {describe(values)} for {self.n} rows; keep rows on the first "
                "axis."
            )
        values = self.of(values)
        if values.ndim == 2:
            units = values.clone()  # the module may write into its activations later
        else:
            units = values.flatten(1, -2).mean(1) if self.last_axis else values.flatten(2).mean(2)
        count = sum(1 for other in self.seen if other.partition(":")[0] == name)
        self.seen[name if count == 0 else f"{name}:{count + 1}"] = units

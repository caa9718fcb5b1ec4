"""What the linear layers of a model see, for y = W h + b the h of each layer, and what they are told, the gradient d by y.

The gradient of one row by W is the outer product d h^T, and by b it is d: a square, an absolute value or an inner product of single
rows' gradients needs the factors only, never a matrix for each row.

While the model runs, calls of `F.linear` are watched and told apart by the weight they are given, the very tensor in `params`. So
it works for every Model whose linear maps go through `F.linear` (`nn.Linear` does), leaves no hook behind, and is as pure as the
forward pass itself: vmapped and compiled runs see the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cl_func.experience import Experience
from cl_func.models.model import Model, ModelState


def linear_inputs(model: Model, net: ModelState, exp: Experience) -> dict[tuple[str, str | None], Tensor]:
    """The inputs [n, in] of each linear layer on the rows of an experience, in eval mode: (weight's name, bias's name) -> inputs.

    A layer applied at several places of a row, x [n, ..., in], gives the mean over the places. The layers come in the order in
    which they run. Raises ValueError for a layer that runs twice.
    """
    with _Watch(net.params) as watch:
        model.apply(net.params, net.buffers, exp.x, train=False, valid=exp.valid, task=exp.tasks)
    return watch.seen


def row_factors(
    model: Model, net: ModelState, x: Tensor, task: Tensor, outputs: Callable[[Tensor], Tensor], weights: Tensor
) -> dict[tuple[str, str | None], tuple[Tensor, Tensor]] | None:
    """The factors of the gradients of sum_c weights[i, k, c] * outputs(logits)[i, c], for each row i and each k, in eval mode.

    x: [n, ...], task: [n] int64; outputs: a function of each row by itself, logits [n, C] to values [n, D]; weights: [n, K, D].
    Returns (weight's name, bias's name) -> (h [n, in], d [n, K, out]); or None if there are no such factors: if the model has
    parameters outside of linear layers, or layers that run twice or at several places of a row.
    """
    zeros = {name: x.new_zeros((x.shape[0], w.shape[0]), dtype=w.dtype) for name, w in net.params.items() if w.ndim == 2}
    found: list[tuple[str, str | None]] = []

    def shifted(shifts: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        found.clear()
        with _Watch(net.params, shifts) as watch:
            logits, _ = model.apply(net.params, net.buffers, x, train=False, task=task)
        found.extend(watch.seen)
        return outputs(logits), list(watch.seen.values())

    try:
        made: Any = torch.func.vjp(shifted, zeros, has_aux=True)
    except _NoFactorsError:
        return None
    if {name for names in found for name in names if name is not None} != net.params.keys():
        return None
    _, pull, inputs = made
    (grads,) = torch.func.vmap(pull, in_dims=1, out_dims=1)(weights)
    return {names: (h, grads[names[0]]) for names, h in zip(found, inputs, strict=True)}


class _NoFactorsError(Exception):
    """Ends a forward pass in which a layer has no two factors."""


class _Watch(TorchFunctionMode):
    """Notes the inputs of linear layers; with `shifts` by the weights' names, adds them to the outputs."""

    def __init__(self, params: dict[str, Tensor], shifts: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        self.names, self.shifts = {id(value): name for name, value in params.items()}, shifts
        self.seen: dict[tuple[str, str | None], Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        shift = self.note(*args, **kwargs) if func is F.linear else None
        out = func(*args, **kwargs)
        return out if shift is None else out + shift

    def note(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:  # F.linear's own names
        name = self.names.get(id(weight))
        if name is None:
            return None
        twice = any(name == other for other, _ in self.seen)
        if self.shifts is not None and (twice or input.ndim != 2):
            raise _NoFactorsError
        if twice:
            raise ValueError(f"model: the linear layer of {name!r} runs twice in one forward pass; its inputs are not one matrix.")
        self.seen[name, self.names.get(id(bias))] = input.flatten(1, -2).mean(1) if input.ndim > 2 else input
        return None if self.shifts is None else self.shifts[name]

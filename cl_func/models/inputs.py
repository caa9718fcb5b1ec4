"""The inputs of a model's linear layers, for y = W h + b the h of each layer, and the gradients by their outputs, the d by each y.

The gradient of one row by W is the outer product d h^T, and by b it is d: a square, an absolute value or an inner product of single
rows' gradients needs only the factors, never a matrix for each row.

While the model runs, calls of `F.linear` are intercepted and identified by their weight, the very tensor in `params`. So this works
for every Model whose linear maps go through `F.linear` (`nn.Linear` does), leaves no hook behind, and is as pure as the forward
pass itself, vmapped and compiled as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cl_func import checks, signatures, tree
from cl_func.experiences import Experience
from cl_func.models.model import Model, ModelState
from cl_func.tree import describe


def linear_inputs(model: Model, net: ModelState, exp: Experience) -> dict[tuple[str, str | None], Tensor]:
    """The inputs [n, in] of each linear layer on the rows of an experience, in eval mode: (weight's name, bias's name) -> inputs.

    A layer applied at several positions of a row, x [n, ..., in], gives the mean over the positions. The layers are in the order in
    which they run. Raises ValueError for a layer that runs twice or is given other rows, and for a weight or bias that is used
    elsewhere too; TypeError for other arguments.
    """
    checks.model("model", model)
    checks.instance("net", net, ModelState, "the ModelState of model.init(key)")
    checks.instance("exp", exp, Experience, "an Experience")
    with _Watch(net.params, len(exp)) as watch:
        model.apply(net.params, net.buffers, exp.x, train=False, valid=exp.valid, task=exp.tasks)
    if watch.tied():
        raise ValueError(
            f"model: {watch.tied()[0]!r} of a linear layer is used elsewhere too, in another layer or on its own; give each linear "
            "layer tensors of its own."
        )
    return watch.seen


def row_factors(
    model: Model, net: ModelState, x: Tensor, task: Tensor, outputs: Callable[[Tensor], Tensor], weights: Tensor
) -> dict[tuple[str, str | None], tuple[Tensor, Tensor]] | None:
    """The factors of the gradients of sum_c weights[i, k, c] * outputs(logits)[i, c], for each row i and each k, in eval mode.

    x: [n, ...], task: [n] int64; outputs: a function of each row by itself, logits [n, C] to values [n, D]; weights: [n, K, D].
    Returns (weight's name, bias's name) -> (h [n, in], d [n, K, out]); or None if there are no such factors: if the model has
    parameters outside of linear layers, if layers run twice or at several positions of a row, or if a weight or bias is used
    elsewhere too (tied weights, a bias that two layers share): its gradient is the sum over its uses.
    Raises TypeError or ValueError for arguments of other kinds, dtypes and shapes.
    """
    checks.model("model", model)
    checks.instance("net", net, ModelState, "the ModelState of model.init(key)")
    checks.instance("x", x, Tensor, "a tensor [n, ...]")
    checks.tensor("task", task, x.shape[:1], torch.int64, like=x)
    signatures.function("outputs", outputs, 1, "a function of logits [n, C]")
    checks.tensor("weights", weights, like=x)
    zeros = {name: x.new_zeros((x.shape[0], w.shape[0]), dtype=w.dtype) for name, w in net.params.items() if w.ndim == 2}
    found: list[tuple[str, str | None]] = []
    tied: list[str] = []

    def shifted(shifts: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        found.clear()
        with _Watch(net.params, x.shape[0], shifts) as watch:
            logits, _ = model.apply(net.params, net.buffers, x, train=False, task=task)
        found.extend(watch.seen)
        tied.extend(watch.tied())
        return outputs(logits), list(watch.seen.values())

    try:
        made: Any = torch.func.vjp(shifted, zeros, has_aux=True)
    except _NoFactorsError:
        return None
    if tied or {name for names in found for name in names if name is not None} != net.params.keys():
        return None
    values, pullback, inputs = made
    if weights.ndim != 3 or (weights.shape[0], weights.shape[2]) != values.shape:
        raise ValueError(f"weights: expected [n, K, D] for outputs [n, D] of {describe(values)}, got {describe(weights)}.")
    (grads,) = torch.func.vmap(pullback, in_dims=1, out_dims=1)(weights)
    return {names: (h, grads[names[0]]) for names, h in zip(found, inputs, strict=True)}


class _NoFactorsError(Exception):
    """Ends a forward pass in which the gradient of a layer is no outer product."""


class _Watch(TorchFunctionMode):
    """Records the inputs [n, ...] of linear layers, and the parameters that any other operation uses.

    With `shifts` by the weights' names, adds them to the layers' outputs.
    """

    def __init__(self, params: dict[str, Tensor], n: int, shifts: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        self.names, self.n, self.shifts = {id(value): name for name, value in params.items()}, n, shifts
        self.seen: dict[tuple[str, str | None], Tensor] = {}
        self.elsewhere: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            shift = self.record(*args, **kwargs)
            out = func(*args, **kwargs)
            return out if shift is None else out + shift
        out = func(*args, **kwargs)
        used = self.named(*args, *kwargs.values()) if kwargs else self.named(*args)
        if used and any(isinstance(value, Tensor) for value in tree.leaves(out)):  # asking for a shape or a dtype does not count
            self.elsewhere.extend(used)
        return out

    def named(self, *given: Any) -> list[str]:
        """The names of the parameters among some arguments, also in lists and tuples."""
        names, found = self.names, []
        for value in given:
            if id(value) in names:
                found.append(names[id(value)])
            elif isinstance(value, (list, tuple)):
                found.extend(self.named(*value))
        return found

    def tied(self) -> list[str]:
        """The parameters of linear layers that are used elsewhere too, or in two of them."""
        held = [name for names in self.seen for name in names if name is not None]
        return [name for i, name in enumerate(held) if name in self.elsewhere or name in held[:i]]

    def record(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:  # F.linear's own names
        name, as_input = self.names.get(id(weight)), self.named(input)
        if name is None or as_input:
            self.elsewhere.extend([*as_input, *self.named(weight, bias)])
            return None
        twice = any(name == other for other, _ in self.seen)
        by_row = input.ndim > 1 and input.shape[0] == self.n
        if self.shifts is not None and (twice or input.ndim != 2 or not by_row):
            raise _NoFactorsError
        if twice:
            raise ValueError(f"model: the linear layer of {name!r} runs twice in one forward pass; its inputs are not one matrix.")
        if not by_row:
            raise ValueError(
                f"model: the linear layer of {name!r} is given {describe(input)} for {self.n} rows; keep rows on the first axis."
            )
        self.seen[name, self.names.get(id(bias))] = input.flatten(1, -2).mean(1) if input.ndim > 2 else input
        return None if self.shifts is None else self.shifts[name]

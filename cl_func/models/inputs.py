"""What the linear layers of a model see: for y = W h + b, the h of each layer.

While the model runs, calls of `F.linear` are watched and told apart by the weight they are given, the very tensor in `params`. So
it works for every Model whose linear maps go through `F.linear` (`nn.Linear` does), leaves no hook behind, and is as pure as the
forward pass itself: vmapped and compiled runs see the same.
"""

from __future__ import annotations

from typing import Any

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


class _Watch(TorchFunctionMode):
    def __init__(self, params: dict[str, Tensor]) -> None:
        super().__init__()
        self.names = {id(value): name for name, value in params.items()}
        self.seen: dict[tuple[str, str | None], Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            self.note(*args, **kwargs)
        return func(*args, **kwargs)

    def note(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:  # F.linear's own names
        name = self.names.get(id(weight))
        if name is None:
            return
        if any(name == other for other, _ in self.seen):
            raise ValueError(f"model: the linear layer of {name!r} runs twice in one forward pass; its inputs are not one matrix.")
        self.seen[name, self.names.get(id(bias))] = input.flatten(1, -2).mean(1) if input.ndim > 2 else input

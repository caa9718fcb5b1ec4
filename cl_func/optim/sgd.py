"""Stochastic gradient descent with momentum, by the convention of torch.optim.SGD (dampening 0):

    g <- g + weight_decay * p
    v <- momentum * v + g                    v = 0 at first, so the first v is g
    p <- p - lr * scale * v                  nesterov: p - lr * scale * (g + momentum * v)

Sutskever, Martens, Dahl & Hinton, "On the importance of initialization and momentum in deep learning", ICML 2013; there the
learning rate is inside v, here outside, so that a schedule acts on the whole step at once.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import torch
from torch import Tensor

from cl_func import tree
from cl_func.optim.hyperparameters import expect, nonnegative, scalars, working_dtype
from cl_func.torch_private import is_eager_cpu
from cl_func.tree import PyTree, bounded, state


@state
class SGDState:
    """The state of `sgd`; float is float32, or float64 if any parameter is."""

    lr: Tensor = bounded(partial(nonnegative, example=0.1))  # () float, learning rate
    weight_decay: Tensor = bounded(partial(nonnegative, example=1e-4))  # () float, factor of the L2 term
    # () float; None: made with momentum=0.0
    momentum: Tensor | None = bounded(partial(nonnegative, example=0.9, below=1.0), default=None)
    velocity: PyTree = None  # like the params, float; None: made with momentum=0.0
    scale: Tensor  # () float, the schedule's factor of lr
    ticks: Tensor  # () int64, how often the schedule was stepped
    count: Tensor  # () int64, optimiser steps taken


@dataclasses.dataclass(frozen=True)
class SGD:
    """The optimiser made by `sgd`: the numbers that a new state starts from, and the static part of the rule."""

    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float

    def init(self, params: PyTree) -> SGDState:
        """The state for a tree of floating parameters; ValueError for an empty tree, TypeError for other dtypes."""
        dtype = working_dtype("params", params)
        if self.momentum == 0:
            return SGDState(**scalars(params, dtype, lr=self.lr, weight_decay=self.weight_decay))
        return SGDState(
            velocity=tree.map(lambda p: torch.zeros_like(p, dtype=dtype), params),
            **scalars(params, dtype, lr=self.lr, weight_decay=self.weight_decay, momentum=self.momentum),
        )

    def update(self, grads: PyTree, state: SGDState, params: PyTree) -> tuple[PyTree, SGDState]:
        """The updates, like the params, to be added to them, and the next state."""
        expect("sgd", SGDState, state)
        self._check_momentum(state)
        dtype, rate = state.lr.dtype, -(state.lr * state.scale)
        decays = not is_eager_cpu(state.weight_decay) or bool(state.weight_decay)

        def decayed(g: Tensor, p: Tensor) -> Tensor:
            return torch.addcmul(g.to(dtype), p.to(dtype), state.weight_decay) if decays else g.to(dtype)

        momentum, velocity = state.momentum, state.velocity
        if momentum is None:
            updates = tree.map(lambda g, p: (rate * decayed(g, p)).to(p.dtype), grads, params)
        else:
            direction = tree.map(decayed, grads, params)
            velocity = tree.map(lambda g, v: torch.addcmul(g, v, momentum), direction, velocity)
            direction = tree.map(lambda g, v: torch.addcmul(g, v, momentum), direction, velocity) if self.nesterov else velocity
            updates = tree.map(lambda d, p: (rate * d).to(p.dtype), direction, params)
        return updates, tree.replace(state, velocity=velocity, count=state.count + 1)

    def _check_momentum(self, state: SGDState) -> None:
        if self.momentum == 0 and (state.momentum is not None or state.velocity is not None):
            raise ValueError(
                f"momentum: {state.momentum} was put in the state of an sgd made with momentum=0.0, which stores no velocity "
                "and so cannot use it; make it with sgd(lr, momentum=0.9) and then set or sweep opt.momentum, 0 included."
            )
        if self.momentum != 0 and (state.momentum is None or state.velocity is None):
            raise ValueError(
                f"momentum: this sgd was made with momentum={self.momentum}, its state with momentum=0.0, without a velocity; "
                "make the state with this optimiser's init(params). To train without momentum set opt.momentum to 0."
            )


def sgd(lr: float, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> SGD:
    """SGD with momentum, Nesterov momentum and L2 weight decay, equal to torch.optim.SGD with the same arguments.

    The numbers become leaves of the state: opt.lr, opt.momentum, opt.weight_decay. With `momentum=0.0` no velocity is stored, and
    there is no leaf opt.momentum: to sweep over momentum with 0 among the values, start from another, `sgd(0.1, momentum=0.9)`.
    Raises TypeError or ValueError unless lr >= 0, 0 <= momentum < 1, weight_decay >= 0, and for nesterov without momentum.

    >>> params = {"w": torch.ones(2)}
    >>> opt = sgd(lr=0.5, momentum=0.9)
    >>> updates, state = opt.update({"w": torch.ones(2)}, opt.init(params), params)
    >>> updates["w"], state.count
    (tensor([-0.5000, -0.5000]), tensor(1))
    """
    if not isinstance(nesterov, bool):
        raise TypeError(f"nesterov: expected True or False, got {nesterov!r}.")
    made = SGD(
        lr=nonnegative("lr", lr, 0.1),
        momentum=nonnegative("momentum", momentum, 0.9, below=1.0),
        nesterov=nesterov,
        weight_decay=nonnegative("weight_decay", weight_decay, 1e-4),
    )
    if nesterov and made.momentum == 0:
        raise ValueError(
            f"nesterov: it needs a momentum, got momentum={momentum}; give for instance momentum=0.9, or nesterov=False."
        )
    return made

"""Adam, and AdamW with decoupled weight decay, by the conventions of torch.optim:

    g <- g + weight_decay * p                                 (Adam only: the decay passes through the moments)
    m <- beta1 * m + (1 - beta1) * g                          first moment
    v <- beta2 * v + (1 - beta2) * g^2                        second moment
    p <- p - lr * scale * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
    p <- p - lr * scale * weight_decay * p                    (AdamW only, with the p from before the step)

t is the number of steps, or with `count_each` that of the steps of each weight by itself: where a method against loss of plasticity
has set m and v of a weight to 0, its t begins anew, as in the code of Dohare et al. (Nature 2024). By one common t its first step
would be (1 - beta1) / sqrt(1 - beta2) times as long, 3.2 times with the usual betas.

Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1; Loshchilov & Hutter, "Decoupled weight decay
regularization", ICLR 2019, algorithm 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.optim.hyperparameters import expect, nonnegative, scalars, working_dtype
from cl_func.torch_private import is_differentiated
from cl_func.tree import PyTree, bounded, describe, state


@state
class AdamState:
    """The state of `adam` and `adamw`; float is float32, or float64 if any parameter is."""

    lr: Tensor = bounded(partial(nonnegative, example=1e-3))  # () float, learning rate
    beta1: Tensor = bounded(partial(nonnegative, example=0.9, below=1.0))  # () float, decay of the first moment
    beta2: Tensor = bounded(partial(nonnegative, example=0.999, below=1.0))  # () float, decay of the second moment
    eps: Tensor = bounded(partial(nonnegative, example=1e-8, positive=True))  # () float, added to the root of the second moment
    weight_decay: Tensor = bounded(partial(nonnegative, example=0.01))  # () float, factor of the L2 term, or the decay (adamw)
    first_moment: PyTree  # like the params, float, running mean of the gradients
    second_moment: PyTree  # like the params, float, running mean of their squares
    scale: Tensor  # () float, the schedule's factor of lr
    ticks: Tensor  # () int64, how often the schedule was stepped
    count: Tensor  # () int64, optimiser steps taken, the t of the equations
    counts: PyTree = None  # like the params, int32, the t of each weight; None: made with count_each=False


def _correction(beta: Tensor, count: Tensor) -> Tensor:
    """1 - beta^t without cancellation: in float32, 1 - 0.999^3 by `pow` is off by 1e-5 of itself."""
    return -torch.expm1(count * torch.log(beta))


def _root(v: Tensor) -> Tensor:
    """The square root; its derivative at 0, of a weight that has had no gradient yet, is 0, where that of `sqrt` would give NaN."""
    if not is_differentiated(v):
        return v.sqrt()
    positive = v > 0
    return torch.where(positive, torch.where(positive, v, 1).sqrt(), 0)


@dataclasses.dataclass(frozen=True)
class Adam:
    """The optimiser made by `adam` and `adamw`: the numbers that a new state starts from, and the static part of the rule."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    decoupled: bool
    count_each: bool

    def init(self, params: PyTree) -> AdamState:
        """The state for a tree of floating parameters; ValueError for an empty tree, TypeError for other dtypes."""
        dtype = working_dtype("params", params)
        return AdamState(
            first_moment=tree.map(lambda p: torch.zeros_like(p, dtype=dtype), params),
            second_moment=tree.map(lambda p: torch.zeros_like(p, dtype=dtype), params),
            counts=tree.map(lambda p: torch.zeros_like(p, dtype=torch.int32), params) if self.count_each else None,
            **scalars(params, dtype, lr=self.lr, beta1=self.beta1, beta2=self.beta2, eps=self.eps, weight_decay=self.weight_decay),
        )

    def update(self, grads: PyTree, state: AdamState, params: PyTree) -> tuple[PyTree, AdamState]:
        """The updates, like the params, to be added to them, and the next state."""
        expect("adamw" if self.decoupled else "adam", AdamState, state)
        dtype, decay, count = state.lr.dtype, state.weight_decay, state.count + 1
        grads = tree.map(lambda g: g.to(dtype), grads)
        if not self.decoupled:
            grads = tree.map(lambda g, p: torch.addcmul(g, p.to(dtype), decay), grads, params)
        first = tree.map(lambda m, g: torch.lerp(m, g, 1 - state.beta1), state.first_moment, grads)
        second = tree.map(lambda v, g: torch.lerp(v, g * g, 1 - state.beta2), state.second_moment, grads)
        rate = -(state.lr * state.scale)
        counts = self._counts(state)
        if counts is None:
            step, root = rate / _correction(state.beta1, count), _correction(state.beta2, count).sqrt()
            updates = tree.map(lambda m, v: step * m / (_root(v) / root + state.eps), first, second)
        else:

            def each(m: Tensor, v: Tensor, t: Tensor) -> Tensor:
                step, root = rate / _correction(state.beta1, t), _correction(state.beta2, t).sqrt()
                return step * m / (_root(v) / root + state.eps)

            updates = tree.map(each, first, second, counts)
        if self.decoupled:
            updates = tree.map(lambda u, p: torch.addcmul(u, p.to(dtype), rate * decay), updates, params)
        updates = tree.map(lambda u, p: u.to(p.dtype), updates, params)
        return updates, tree.replace(state, first_moment=first, second_moment=second, count=count, counts=counts)

    def _counts(self, state: AdamState) -> PyTree:
        """The t of each weight at this step; None if there is one for all."""
        if self.count_each != (state.counts is not None):
            raise ValueError(
                f"count_each: this optimiser was made with count_each={self.count_each}, its state with {not self.count_each}; "
                "make the state with this optimiser's init(params)."
            )
        return tree.map(lambda t: t + 1, state.counts) if self.count_each else None


def _make(lr: float, betas: Sequence[float], eps: float, weight_decay: float, decoupled: bool, count_each: bool) -> Adam:
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise TypeError(f"betas: expected two numbers such as (0.9, 0.999), got {describe(betas)}.")
    return Adam(
        lr=nonnegative("lr", lr, 1e-3),
        beta1=nonnegative("betas[0]", betas[0], 0.9, below=1.0),
        beta2=nonnegative("betas[1]", betas[1], 0.999, below=1.0),
        eps=nonnegative("eps", eps, 1e-8, positive=True),
        weight_decay=nonnegative("weight_decay", weight_decay, 0.01),
        decoupled=decoupled,
        count_each=checks.flag("count_each", count_each),
    )


def adam(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    *,
    count_each: bool = False,
) -> Adam:
    """Adam (Kingma & Ba 2015) with L2 weight decay in the gradient, equal to torch.optim.Adam with the same arguments.

    The numbers become leaves of the state: opt.lr, opt.beta1, opt.beta2, opt.eps, opt.weight_decay.

    betas: the decays of the moments. Equal ones, such as (0.99, 0.99), bound the steps after a change of the task, and so help
        against loss of plasticity (Dohare, Lan & Mahmood, "Overcoming policy collapse in deep reinforcement learning", EWRL 2023).
    count_each: whether the steps of each weight are counted by themselves, for methods that begin some of them anew, such as
        `cl.plasticity.continual_backprop`; it takes 4 bytes a weight, and without such a method changes nothing.

    Raises TypeError or ValueError unless lr >= 0, 0 <= betas < 1, eps > 0 and weight_decay >= 0.

    >>> params = {"w": torch.ones(2)}
    >>> opt = adam(lr=0.5)
    >>> updates, state = opt.update({"w": torch.tensor([3.0, -7.0])}, opt.init(params), params)
    >>> updates["w"]
    tensor([-0.5000,  0.5000])
    """
    return _make(lr, betas, eps, weight_decay, False, count_each)


def adamw(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    *,
    count_each: bool = False,
) -> Adam:
    """AdamW (Loshchilov & Hutter 2019): Adam whose weight decay bypasses the moments, equal to torch.optim.AdamW.

    Arguments, leaves and errors as for `adam`; the decay per step is lr * scale * weight_decay.
    """
    return _make(lr, betas, eps, weight_decay, True, count_each)

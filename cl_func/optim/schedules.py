"""Learning-rate schedules: Updates that move the factor `scale` of an optimiser's state; its step size is lr * scale.

    exponential_decay   scale = gamma^t
    step_decay          scale = gamma^floor(t / every)
    cosine_decay        scale = final + (1 - final) * (1 + cos(pi * min(t, total) / total)) / 2

t counts how often the schedule was stepped (`ticks`), which depends on its position in the composition:
    compose(minibatches(step, batch_size=10), exponential_decay(0.9))             once per experience
    minibatches(compose(step, cosine_decay(total=1000)), batch_size=10)           once per minibatch
    compose(restart(), minibatches(compose(step, cosine_decay(100)), ...))        once per minibatch, anew in each experience

The cosine is equation 5 of Loshchilov & Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, signatures, tree
from cl_func.checks import positive_int
from cl_func.core import Update
from cl_func.optim.hyperparameters import nonnegative_or_path, resolve
from cl_func.tree import describe


def _ticks_and_scale(agent: Any, slot: str) -> tuple[Tensor, Tensor]:
    """The leaves ticks and scale of the optimiser's state in a slot."""
    try:
        ticks, scale = tree.get(agent, f"{slot}.ticks"), tree.get(agent, f"{slot}.scale")
    except ValueError as error:
        raise ValueError(
            f"slot {slot!r}: a schedule moves the leaves {slot}.ticks and {slot}.scale, but {error} Give the slot of a state made "
            "by cl.optim.sgd, adam or adamw (after its init), or give your optimiser's state these two leaves and let it use them."
        ) from None
    return ticks, scale


def schedule(fn: Callable[..., Tensor], slot: str = "opt", **hyperparameters: float | str) -> Update:
    """The Update that steps a schedule: ticks + 1, and scale = fn(ticks + 1).

    fn: a function of ticks, () int64, that returns the scale, () floating.
    slot: where the agent keeps the optimiser's state.
    hyperparameters: passed on to fn by name, () tensors of the scale's dtype: numbers as given, path strings as the leaf found
        there, so that a schedule can be part of a sweep.
    Raises TypeError for arguments of other kinds, and, when applied, ValueError for a slot without the leaves ticks and scale.

    >>> from cl_func.optim import sgd
    >>> warm_up = schedule(lambda ticks, steps: (ticks / steps).clamp(max=1.0), steps=4.0)
    >>> warm_up({"opt": sgd(0.1).init({"w": torch.zeros(2)})}, None)["opt"].scale
    tensor(0.2500)
    """
    signatures.function("fn", fn, 1, ", ".join(("a function of ticks", *hyperparameters)), keywords=hyperparameters)
    checks.path("slot", slot, "opt")
    values = {name: checks.number_or_path(name, value, "opt.gamma") for name, value in hyperparameters.items()}
    return partial(_step, fn=fn, slot=slot, hyperparameters=values)


def _step(state: Any, exp: Any, *, fn: Callable[..., Tensor], slot: str, hyperparameters: Mapping[str, float | str]) -> Any:
    ticks, scale = _ticks_and_scale(state, slot)
    values = {name: resolve(state, name, value, scale) for name, value in hyperparameters.items()}
    new = fn(ticks + 1, **values)
    if not isinstance(new, Tensor) or new.ndim != 0:
        raise TypeError(f"fn: expected a tensor of shape () made from ticks, got {describe(new)}.")
    return tree.set(state, {f"{slot}.ticks": ticks + 1, f"{slot}.scale": new.to(scale.dtype)})


def _power(ticks: Tensor, gamma: Tensor, every: int) -> Tensor:
    return gamma ** (ticks // every)


def exponential_decay(gamma: float | str, slot: str = "opt") -> Update:
    """Multiply the learning rate by gamma at every tick, as torch's ExponentialLR does.

    gamma: a number above 0, or the path of a leaf () of the state that holds it. Raises as `schedule`, and for another gamma.
    """
    return step_decay(1, gamma, slot)


def step_decay(every: int, gamma: float | str, slot: str = "opt") -> Update:
    """Multiply the learning rate by gamma at every `every`-th tick, as torch's StepLR does. Arguments as in `exponential_decay`."""
    fn = partial(_power, every=positive_int("every", every))
    return schedule(fn, slot, gamma=nonnegative_or_path("gamma", gamma, 0.99))


def _cosine(ticks: Tensor, final: Tensor, total: int) -> Tensor:
    angle = ticks.clamp(max=total).to(final.dtype) * (math.pi / total)
    return final + (1 - final) * (1 + torch.cos(angle)) / 2


def cosine_decay(total: int, final: float | str = 0.0, slot: str = "opt") -> Update:
    """Anneal the learning rate along half a cosine, from lr to lr * final in `total` ticks, then hold it.

    As torch's CosineAnnealingLR with eta_min = lr * final, which, unlike this, rises again after `total`.
    final: a number of at least 0, or the path of a leaf () of the state. Raises as `schedule`, and for another final.
    """
    fn = partial(_cosine, total=positive_int("total", total))
    return schedule(fn, slot, final=nonnegative_or_path("final", final, 0.1, positive=False))


def restart(slot: str = "opt") -> Update:
    """The Update that restarts the schedule of a slot: ticks = 0, scale = 1; the optimiser's moments stay as they are.

    Raises ValueError, when applied, for a slot without the leaves ticks and scale.
    """
    return partial(_restart, slot=checks.path("slot", slot, "opt"))


def _restart(state: Any, exp: Any, *, slot: str) -> Any:
    ticks, scale = _ticks_and_scale(state, slot)
    return tree.set(state, {f"{slot}.ticks": torch.zeros_like(ticks), f"{slot}.scale": torch.ones_like(scale)})

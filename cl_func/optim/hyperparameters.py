"""Hyperparameters: checked numbers in a factory, leaves in an optimiser's state, or paths to leaves anywhere in the agent.

All optimiser states share these leaves: `lr`, `weight_decay`, `scale`, `ticks` and `count`. Schedules change `scale` and `ticks`.
The step size of every optimiser here is
    lr * scale
and a sweep over `opt.lr` does not affect the schedule.
"""

from __future__ import annotations

import functools
import math
import numbers
from typing import Any

import torch
from torch import Tensor

from cl_func import core, tree
from cl_func.tree import PyTree, describe


def nonnegative(name: str, value: Any, example: float, *, positive: bool = False, below: float = math.inf) -> float:
    """Check that a hyperparameter is a finite number in [0, below), without 0 if `positive`; TypeError or ValueError otherwise."""
    wanted = f"a number {'above 0 and' if positive else 'of at least 0 and'} below {below:g}"
    if math.isinf(below):
        wanted = f"a finite number {'above' if positive else 'of at least'} 0"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected {wanted}, got {describe(value)}; give a float such as {example:g}.")
    value = float(value)
    if not (value > 0 if positive else value >= 0) or not value < below:
        raise ValueError(f"{name}: expected {wanted}, got {value}; give for instance {example:g}.")
    return value


def nonnegative_or_path(name: str, value: Any, example: float, *, positive: bool = True) -> float | str:
    """Check that a hyperparameter is a number as in `nonnegative`, or the path of a leaf of the state, such as "clip.max_norm"."""
    if not isinstance(value, str):
        return nonnegative(name, value, example, positive=positive)
    if not value:
        raise ValueError(
            f"{name}: expected a number or the path of a leaf such as 'clip.{name}', got an empty string; name the leaf."
        )
    return value


def resolve(agent: Any, name: str, value: float | str, like: Tensor) -> Tensor:
    """The present value of a hyperparameter, () of the dtype and device of `like`: the number itself or the leaf at the path."""
    found = core.resolve(agent, value)
    if isinstance(found, Tensor) and found.ndim == 0:
        return found.to(like.dtype)
    if isinstance(found, bool) or not isinstance(found, numbers.Real):
        raise TypeError(f"{name}: the path {value!r} leads to {describe(found)}; name a leaf that is a tensor of shape ().")
    return torch.full_like(like, float(found))


def working_dtype(name: str, tensors: PyTree) -> torch.dtype:
    """float32, or float64 if any of the tensors has it: half-precision parameters get float32 moments and norms.

    One dtype for a whole tree keeps a step closed for any mixture of dtypes: a () tensor widens only other () tensors.
    """
    found = tree.items(tensors)
    if not found:
        raise ValueError(f"{name}: the tree holds no tensor; give the parameters to train, such as state.model.params.")
    for path, leaf in found:
        if not isinstance(leaf, Tensor) or not leaf.dtype.is_floating_point:
            raise TypeError(f"{name}: expected floating tensors, {path!r} is {describe(leaf)}; keep it among the model's buffers.")
    return functools.reduce(torch.promote_types, (leaf.dtype for _, leaf in found), torch.float32)


def scalars(params: PyTree, dtype: torch.dtype, **values: float) -> dict[str, Tensor]:
    """The leaves () of a new state on the parameters' device: some hyperparameters, and the counters."""
    device = tree.leaves(params)[0].device
    return {
        **{name: torch.tensor(value, dtype=dtype, device=device) for name, value in values.items()},
        "scale": torch.ones((), dtype=dtype, device=device),
        "ticks": torch.zeros((), dtype=torch.int64, device=device),
        "count": torch.zeros((), dtype=torch.int64, device=device),
    }


def expect(made_by: str, kind: type, given: Any) -> None:
    """Check that an optimiser is given its own kind of state; TypeError that says how to make it otherwise."""
    if given is None:
        raise TypeError(
            f"{made_by}: its state is None; fill it first: cl.maybe_init(state, opt=lambda s: opt.init(s.model.params))."
        )
    if not isinstance(given, kind):
        raise TypeError(f"{made_by}: expected a {kind.__name__} made by its init(params), got {type(given).__name__}.")

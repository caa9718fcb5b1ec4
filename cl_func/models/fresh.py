"""New parameters within an Update: the initialisation of a module is done again, with draws of a key.

With `cl_func.random` in place of torch's generator, the recorded operations (`initialisation.py`) give parameters of the very
distribution that `init` draws from, whatever initialisers the factory calls; and being operations on values they can be vmapped
and compiled.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random
from cl_func.models.initialisation import UNIFORM, Initialisation, Step
from cl_func.models.model import Fresh, Model, fresh_function
from cl_func.random import draws, words
from cl_func.tree import describe


def run(
    program: Initialisation, key: Tensor, params: dict[str, Tensor], rows: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """New parameters like `params`, all or some of the module's, from a key, () int64; of those in `rows` some rows only."""
    check_arguments(key, params, {name: view.size for name, view in program.outputs.items()})
    alone = {name: chosen for name, chosen in (rows or {}).items() if program.by_rows(name)}
    whole = [name for name in params if name not in alone]
    drawn = program.run(whole, _keyed, key, program.needed(whole)) if whole else {}
    for name, chosen in alone.items():
        drawn |= program.run([name], partial(_keyed, rows=chosen), key, program.needed([name]), len(chosen))
    for name, chosen in (rows or {}).items():
        drawn[name] = drawn[name] if name in alone else drawn[name].index_select(0, chosen)
    return {name: drawn[name].to(old.dtype) for name, old in params.items()}


FreshRows = Callable[[Tensor, dict[str, Tensor], dict[str, Tensor]], dict[str, Tensor]]  # (key, params, rows) -> params


def fresh_rows(model: Model) -> FreshRows:
    """The function (key, params, rows) -> `model.fresh(key, params)`, with only some rows of those parameters that `rows` names.

    rows: {name: [m] int64, which rows of this parameter}. Where rows are drawn one by one, as in almost every initialisation, no
    others are drawn. A `fresh` of one's own may take the argument `rows` for it; otherwise rows are taken from all that it draws.
    """
    fresh: Any = fresh_function(model)
    return fresh if "rows" in inspect.signature(fresh).parameters else partial(_taken, fresh)


def _taken(fresh: Fresh, key: Tensor, params: dict[str, Tensor], rows: dict[str, Tensor]) -> dict[str, Tensor]:
    drawn = fresh(key, params)
    return {name: value.index_select(0, rows[name]) if name in rows else value for name, value in drawn.items()}


def check_arguments(key: Any, params: Any, sizes: dict[str, tuple[int, ...]]) -> None:
    """ValueError or TypeError unless `key` is a key and `params` are of the names and sizes of a model's parameters."""
    checks.key("key", key)
    checks.instance("params", params, dict, "the parameters of this model by name")
    wrong = sorted(map(str, params.keys() - sizes.keys()))
    if wrong or not params:
        what = f"{wrong[0]!r} is no parameter of this model" if wrong else "there are none"
        raise ValueError(f"params: {what}; pass all or some of the params of a state made by this model's init.")
    for name, value in params.items():
        if not isinstance(value, Tensor) or not value.is_floating_point() or tuple(value.shape) != sizes[name]:
            raise ValueError(f"params: expected {name!r} to be a floating tensor {list(sizes[name])}, got {describe(value)}.")


def uniform(key: Tensor, bound: float, like: Tensor, rows: Tensor | None = None) -> Tensor:
    """Uniform draws from [-bound, bound) in the shape and dtype of a tensor, or some rows of them."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return (bound * (2 * words.as_uniform(_words(key, tuple(like.shape), rows), dtype) - 1)).to(like.dtype)


def _words(key: Tensor, shape: tuple[int, ...], rows: Tensor | None) -> Tensor:
    return draws.bits(key, shape) if rows is None else draws.row_bits(key, shape, rows)


def _keyed(key: Tensor, i: int, step: Step, rows: Tensor | None = None) -> Tensor | None:
    """What step i draws, from a key of its own, or some rows of it."""
    if not step.draws:
        return None
    (view,) = step.targets()
    dtype = torch.float64 if view.dtype == torch.float64 else torch.float32
    own = random.fold_in(key, i)
    given = {argument.name: value for argument, value in zip(step.function._schema.arguments, step.args, strict=False)}
    given |= step.kwargs
    if step.function in UNIFORM:
        low, high = given.get("from", 0.0), given.get("to", 1.0)
        drawn = low + (high - low) * words.as_uniform(_words(own, view.size, rows), dtype)
    else:
        drawn = given.get("mean", 0.0) + given.get("std", 1.0) * words.as_normal(_words(own, view.size, rows), dtype)
    return drawn.to(view.dtype)

"""What memories store of an experience, and how rows drawn from one join a minibatch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.experiences import Experience, present, require_target
from cl_func.memory.buffer import same_values
from cl_func.models import Model
from cl_func.sources.dataset import unchecked
from cl_func.sources.source import Target, target_of
from cl_func.tree import describe


def sample(model: Model, target: Target = "class") -> dict[str, Tensor]:
    """One row of what a memory stores by default, for allocation: x of the model's input shape and dtype; task int64; and y.

    target: what y is: "class", int64; "multilabel", [C] bool; "regression", [K] float32, with as many as the model has outputs.
    Raises ValueError for a model without `input_shape`.
    """
    checks.choice("target", target, "class", "multilabel", "regression")
    shape = checks.model("model", model).input_shape
    if shape is None:
        raise ValueError(
            "model: a replay memory must know the shape of one input to allocate its rows; "
            "build the model with from_module(factory, n_classes=..., input_shape=(...))."
        )
    y = {
        "class": torch.tensor(0),
        "multilabel": torch.zeros(model.n_classes, dtype=torch.bool),
        "regression": torch.zeros(model.n_classes),
    }
    return {"x": torch.zeros(shape, dtype=model.input_dtype), "y": y[target], "task": torch.tensor(0)}


def fields(state: Any, exp: Experience) -> dict[str, Tensor]:
    """The rows of an experience as a memory stores them by default: x [n, ...], y [n], task [n]; the state is not used."""
    checks.instance("exp", exp, Experience, "an Experience")
    return {"x": exp.x, "y": exp.y, "task": exp.tasks}


def labels(exp: Experience, n_classes: int, exact: bool = False) -> Tensor:
    """The labels [n] of an experience, for a memory made for n_classes; ValueError if the data has none, more, or not as many."""
    require_target(exp, "a memory that goes by classes", "class")
    found = exp.classes.shape[-1]
    if exact and found < n_classes:
        raise ValueError(
            f"n_classes: the model has {n_classes} classes, the data has {found}; build the model with n_classes={found}."
        )
    if found > n_classes:
        raise ValueError(
            f"n_classes: the memory was made for {n_classes} classes, the data has {exp.classes.shape[-1]}; "
            f"make it with n_classes={exp.classes.shape[-1]}."
        )
    return exp.y


def check_fields(name: str, rows: Any, like: Tensor, valid: Tensor | None = None) -> None:
    """Check that rows are a dict of tensors [m, ...] on the device of `like`, with x, y [m] and task [m]; m is that of `valid`.

    Without `valid` it is that of x. Raises TypeError or ValueError that names the field.
    """
    if not isinstance(rows, dict) or not {"x", "y", "task"} <= rows.keys():
        raise checks.type_error(name, "a dict of the fields x, y and task, as a memory draws them", rows)
    for field, values in rows.items():
        if not isinstance(values, Tensor) or values.ndim == 0 or values.device != like.device:
            raise checks.type_error(f"{name}[{field!r}]", f"a tensor [m, ...] on {like.device}", values)
    shape = rows["x"].shape[:1] if valid is None else valid.shape
    suffix = "" if valid is None else ", valid"
    checks.tensor(f"{name}['task']{suffix}", rows["task"], shape, torch.int64)
    y = rows["y"]
    if target_of(y) == "class":
        checks.tensor(f"{name}['y']{suffix}", y, shape, torch.int64)
    elif y.shape[:1] != shape:
        raise ValueError(f"{name}['y']{suffix}: expected one target for each of {shape[0]} rows, got {describe(y)}.")


def _check_rows(exp: Experience, rows: Any, valid: Tensor) -> None:
    checks.instance("exp", exp, Experience, "an Experience")
    check_fields("rows", rows, exp.rows, checks.tensor("valid", valid, dtype=torch.bool, like=exp.rows))


def _like(y: Tensor, own: Tensor) -> Tensor:
    """Targets of a memory [m, ...] in the shape that those of the data have: [m] for one target that is stored as [m, 1]."""
    n_stored, n_own = y.shape[1:].numel(), own.shape[1:].numel()
    if y.is_floating_point() and own.is_floating_point() and (y.dtype != own.dtype or n_stored != n_own):
        dtype = str(y.dtype).removeprefix("torch.")
        mends = []
        if y.dtype != own.dtype:
            mends.append(f"convert those of the data, y.to(torch.{dtype}), or in numpy y.astype(numpy.{dtype})")
        if n_stored != n_own:
            mends.append(f"build the model with n_classes={n_own}, an output for each target")
        raise ValueError(f"y: the memory stores targets {describe(y)}, the data has {describe(own)}; {'; '.join(mends)}.")
    if y.dtype != own.dtype or n_stored != n_own:
        raise ValueError(
            f"y: the memory stores targets {describe(y)}, the data has {describe(own)}; make the memory for those of the data, "
            "by cl.memory.sample(model, target), or a strategy by its loss, such as loss=cl.losses.mean_squared_error(model)."
        )
    return y.reshape(y.shape[0], *own.shape[1:])


def join(exp: Experience, rows: dict[str, Tensor], valid: Tensor) -> Experience:
    """m rows from a memory (x [m, ...], y [m], task [m], valid [m]) followed by a minibatch of b rows: an Experience of m + b rows.

    Its classes are those of the experience and of the valid rows that join. The replayed rows come first, so that padding at the
    end of the minibatch shifts no other row: what is drawn by position, such as dropout, stays the same.
    """
    _check_rows(exp, rows, valid)
    inputs = exp.x
    if not same_values(inputs.shape[1:], rows["x"].shape[1:]):
        raise ValueError(
            f"x: the memory stores inputs of shape {list(rows['x'].shape[1:])}, the experience has {list(inputs.shape[1:])}; "
            "build the model, and with it the memory, for the shape of the data."
        )
    inputs = inputs.reshape(len(exp), *rows["x"].shape[1:])
    own = exp.y
    source = unchecked(
        torch.cat([rows["x"], inputs]),
        torch.cat([_like(rows["y"], own), own]),
        torch.cat([rows["task"], exp.tasks]),
        exp.source.n_classes,
    )
    count = len(exp) + valid.shape[0]
    return tree.replace(
        exp,
        source=source,
        rows=torch.arange(count, device=valid.device),
        valid=torch.cat([valid, exp.valid]),
        classes=exp.classes | present(rows["y"], valid, exp.classes.shape[-1]),
    )


def recalled(exp: Experience, rows: dict[str, Tensor], valid: Tensor) -> Experience:
    """m rows from a memory (x [m, ...], y [m], task [m], valid [m]) as an Experience of their own, in place of those of `exp`.

    Its classes are those of the valid rows; its index and its task label are those of `exp`, while `tasks` are the rows' own.
    """
    _check_rows(exp, rows, valid)
    own = exp.source.gather_y(torch.zeros_like(exp.rows[:1]))  # of one row, since those of exp may be row numbers of the memory
    return tree.replace(
        exp,
        source=unchecked(rows["x"], _like(rows["y"], own), rows["task"], exp.source.n_classes),
        rows=torch.arange(valid.shape[0], device=valid.device),
        valid=valid,
        classes=present(rows["y"], valid, exp.classes.shape[-1]),
    )


def union_weights(replayed: Tensor, valid: Tensor, share: Tensor) -> Tensor:
    """Weights [m + b] for the rows of `join`: m from a memory, valid where `replayed` [m], and b of a minibatch, where `valid` [b].

    The sum of weights times values estimates the mean over memory and experience together, where the memory is the part `share` (),
    floating, of the rows: training on their union, as if all exemplars were added to the data, for methods defined that way.
    """
    for name, mask in (("replayed", replayed), ("valid", valid)):
        if checks.tensor(name, mask, dtype=torch.bool).ndim != 1:
            raise checks.type_error(name, "bool[n], one for each row", mask)
    if valid.device != replayed.device:
        raise ValueError(f"replayed, valid: on {replayed.device} and {valid.device}; move one with .to(device).")
    checks.tensor("share", share, (), like=valid)
    return torch.cat([replayed * (share / replayed.sum().clamp(min=1)), valid * ((1 - share) / valid.sum().clamp(min=1))])

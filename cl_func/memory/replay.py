"""What memories store of an experience, and how rows drawn from one join a minibatch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.experiences import Experience, one_hot
from cl_func.tree import describe


def sample(model: Any) -> dict[str, Tensor]:
    """One row of what a memory stores by default, for allocation: x of the model's input shape, float32; y and task, int64.

    Raises ValueError for a model that does not tell its input shape.
    """
    if checks.model("model", model).input_shape is None:
        raise ValueError(
            "model: a replay memory must know the shape of one input to allocate its rows; "
            "build the model with from_module(factory, n_classes=..., input_shape=(...))."
        )
    return {"x": torch.zeros(model.input_shape), "y": torch.tensor(0), "task": torch.tensor(0)}


def fields(state: Any, exp: Experience) -> dict[str, Tensor]:
    """The rows of an experience as a memory stores them by default: x [n, ...], y [n], task [n]; the state is not looked at."""
    checks.instance("exp", exp, Experience, "an Experience")
    return {"x": exp.x, "y": exp.y, "task": exp.tasks}


def labels(exp: Experience, n_classes: int) -> Tensor:
    """The labels [n] of an experience, for a memory with places for n_classes; ValueError if the data has more classes."""
    if exp.classes.shape[-1] > n_classes:
        raise ValueError(
            f"n_classes: the memory was made for {n_classes} classes, the data has {exp.classes.shape[-1]}; "
            f"make it with n_classes={exp.classes.shape[-1]}."
        )
    return exp.y


def fit(rows: Any, data: Any, name: str = "rows", n: int | None = None) -> Any:
    """Bring rows [n, ...] into the shape of a memory's leaves [capacity, ...] (a reshape); the dtypes must agree.

    Raises ValueError when the structure, the number of values per row or a dtype differs, or there are not `n` rows.
    """
    if tree.flatten(rows)[1] != tree.flatten(data)[1]:
        raise ValueError(f"{name}: the memory stores {describe(data)}, got {describe(rows)}; give the same fields.")

    def fit_leaf(row: Tensor, slot: Tensor) -> Tensor:
        if not isinstance(row, Tensor) or row.ndim == 0 or row.device != slot.device:
            raise ValueError(f"{name}: expected tensors [n, ...] on {slot.device}, got {describe(row)}; move them there.")
        if row.shape[1:].numel() != slot.shape[1:].numel() or row.dtype != slot.dtype:
            raise ValueError(
                f"{name}: the memory stores {describe(slot)}, rows come as {describe(row)}; "
                "allocate it for rows of this shape and dtype, or convert the data."
            )
        if n is not None and row.shape[0] != n:
            raise ValueError(f"{name}: expected {n} rows, one for each of valid, got {describe(row)}.")
        return row.reshape(row.shape[0], *slot.shape[1:])

    return tree.map(fit_leaf, rows, data)


def _check_rows(exp: Experience, rows: Any, valid: Tensor) -> None:
    checks.tensor("valid", valid, dtype=torch.bool, like=exp.rows)
    if not isinstance(rows, dict) or not {"x", "y", "task"} <= rows.keys():
        raise checks.type_error("rows", "a dict of the fields x, y and task, as a memory draws them", rows)
    for name, field in rows.items():
        if not isinstance(field, Tensor) or field.ndim == 0 or field.device != exp.rows.device:
            raise checks.type_error(f"rows[{name!r}]", f"a tensor [m, ...] on {exp.rows.device}", field)
    for name in ("y", "task"):
        checks.tensor(f"rows[{name!r}], valid", rows[name], valid.shape, torch.int64)


def join(exp: Experience, rows: Any, valid: Tensor) -> Experience:
    """m rows from a memory (x [m, ...], y [m], task [m], valid [m]) followed by a minibatch of b rows: an Experience of m + b rows.

    Its classes are those of the experience and of the valid rows that join. The replayed rows come first, so that padding at the
    end of the minibatch moves no other row: draws by position, as of dropout, stay the same.
    """
    checks.instance("exp", exp, Experience, "an Experience")
    _check_rows(exp, rows, valid)
    inputs = exp.x
    if inputs.shape[1:].numel() != rows["x"].shape[1:].numel():
        raise ValueError(
            f"x: the memory stores inputs of shape {list(rows['x'].shape[1:])}, the experience has {list(inputs.shape[1:])}; "
            "build the model, and with it the memory, for the shape of the data."
        )
    inputs = inputs.reshape(len(exp), *rows["x"].shape[1:])
    source = tree.replace(
        exp.source,
        x=torch.cat([rows["x"], inputs]),
        y=torch.cat([rows["y"], exp.y]),
        task=torch.cat([rows["task"], exp.tasks]),
    )
    count = len(exp) + valid.shape[0]
    return tree.replace(
        exp,
        source=source,
        rows=torch.arange(count, device=valid.device),
        valid=torch.cat([valid, exp.valid]),
        classes=exp.classes | one_hot(rows["y"], valid, exp.classes.shape[-1]).any(0),
    )


def recalled(exp: Experience, rows: Any, valid: Tensor) -> Experience:
    """m rows from a memory (x [m, ...], y [m], task [m], valid [m]) as an Experience by themselves, in the place of exp's own.

    Its classes are those of the valid rows; its index and its task label stay those of `exp`, while `tasks` are the rows' own.
    """
    checks.instance("exp", exp, Experience, "an Experience")
    _check_rows(exp, rows, valid)
    return tree.replace(
        exp,
        source=tree.replace(exp.source, x=rows["x"], y=rows["y"], task=rows["task"]),
        rows=torch.arange(valid.shape[0], device=valid.device),
        valid=valid,
        classes=one_hot(rows["y"], valid, exp.classes.shape[-1]).any(0),
    )


def union_weights(there: Tensor, valid: Tensor, share: Tensor) -> Tensor:
    """Weights [m + b] for the rows of `join`, m drawn from a memory (there [m] bool) and a minibatch of b (valid [b] bool).

    The sum of weights times values estimates the mean over memory and experience together, of which the memory is the part
    `share` () of the rows: training on their union, as if all exemplars were added to the data, for methods that say so.
    """
    return torch.cat([there * (share / there.sum().clamp(min=1)), valid * ((1 - share) / valid.sum().clamp(min=1))])

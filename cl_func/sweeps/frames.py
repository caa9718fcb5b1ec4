"""Runs as pandas DataFrames, whose columns hold numbers wherever the labels are numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cl_func import checks
from cl_func.sweeps import named_axes

if TYPE_CHECKING:
    from pandas import DataFrame


def frame(
    axes: named_axes.Axes, runs: Mapping[str, Tensor], histories: Mapping[str, Tensor], dims: Sequence[str] = ()
) -> DataFrame:
    """One row per run and entry of its histories, with the columns of `axes`, `dims`, `runs` [*axes], `histories` [*axes, *dims].

    An axis of zipped points has a column for each path. ValueError where two columns would have one name.
    """
    pd = checks.optional("pandas", "Runs.to_pandas", "pandas")
    shape = (*(len(labels) for labels in axes.values()), *next((v.shape[len(axes) :] for v in histories.values()), ()))
    index = np.indices(shape).reshape(len(shape), -1)
    columns: list[tuple[str, Any]] = []
    for a, (name, labels) in enumerate(axes.items()):
        columns += [(path, values[index[a]]) for path, values in _label_columns(name, labels)]
    columns += [(name, index[len(axes) + i]) for i, name in enumerate(dims)]
    columns += [(name, _array(value)[tuple(index[: len(axes)])]) for name, value in runs.items()]
    columns += [(name, _array(value).reshape(-1)) for name, value in histories.items()]
    names = [name for name, _ in columns]
    if len(set(names)) < len(names):
        raise ValueError(f"to_pandas: two columns would have one name, among {names}; rename the axis or the history.")
    return pd.DataFrame(dict(columns))


def alike(
    axes: named_axes.Axes, runs: Mapping[str, Tensor], histories: Mapping[str, Tensor], names: Any, measure: str
) -> DataFrame:
    """The frame of some histories that are by the same dimensions; by default those of `measure`, or of the first."""
    dims = named_axes.dimensions(histories, len(axes), measure)
    if names is None:
        like = measure if measure in dims else next(iter(dims), None)
        names = [name for name, own in dims.items() if own == dims.get(str(like))]
    elif isinstance(names, str):
        names = [names]
    elif not isinstance(names, Sequence) or isinstance(names, bytes):
        raise checks.type_error("histories", "the names of histories", names)
    unknown = [name for name in names if name not in histories]
    if unknown:
        raise ValueError(f"histories: {unknown[0]!r}: no such history; there is {', '.join(histories) or 'none'}.")
    if len({(dims[name], histories[name].shape) for name in names}) != 1:
        given = ", ".join(f"{name} {checks.describe(histories[name])}" for name in names) or "none"
        raise ValueError(f"histories: expected some that are by the same axes, got {given}; make a frame of each.")
    return frame(axes, runs, {name: histories[name] for name in names}, dims[names[0]])


def _label_columns(name: str, labels: Sequence[named_axes.Label]) -> list[tuple[str, np.ndarray]]:
    paths = named_axes.paths(name, labels)
    if not paths:
        return [(name, np.array(named_axes.column(name, labels)))]
    return [(path, np.array(named_axes.column(path, [label[path] for label in labels]))) for path in paths]


def _array(value: Tensor) -> np.ndarray:
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()

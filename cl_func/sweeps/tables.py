"""The results of runs as tables: Markdown and a pandas DataFrame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from cl_func import checks
from cl_func.sweeps import named_axes

if TYPE_CHECKING:
    from pandas import DataFrame


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with a header [columns] and rows [rows][columns] of texts."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def cell(mean: float, half_width: float, note: str, form: str = "z.3f") -> str:
    """A mean ± the half-width of its confidence interval, NaN for a single run, and a note; the note alone if the mean is NaN.

    form: how the numbers are written.
    """
    if math.isnan(mean):
        return note
    spread = "" if math.isnan(half_width) else f" ± {format(half_width, form)}"
    return f"{format(mean, form)}{spread}" + (f" ({note})" if note else "")


def frame(axes: named_axes.Axes, runs: Mapping[str, Tensor], histories: Mapping[str, Tensor]) -> DataFrame:
    """One row per run, time and test experience, with the columns of `axes`, `runs` [*axes] and `histories` [*axes, time, T]."""
    pd = checks.optional("pandas", "Runs.to_pandas", "pandas")
    shape = tuple(next(iter(histories.values())).shape)
    index = np.indices(shape).reshape(len(shape), -1)
    columns = [(name, np.array(named_axes.column(name, labels))[index[a]]) for a, (name, labels) in enumerate(axes.items())]
    columns += [("time", index[-2]), ("test_experience", index[-1])]
    columns += [(name, value.numpy()[tuple(index[:-2])]) for name, value in runs.items()]
    columns += [(name, value.flatten().numpy()) for name, value in histories.items()]
    names = [name for name, _ in columns]
    if len(set(names)) < len(names):
        raise ValueError(f"to_pandas: two columns would have one name, among {names}; rename the axis or the history.")
    return pd.DataFrame(dict(columns))

"""Results of runs as tables: Markdown, and a pandas DataFrame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from cl_func import checks
from cl_func.sweeps import named_axes


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of texts."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def cell(mean: float, half: float, told: str) -> str:
    """A mean ± half-width of its confidence interval, NaN for one run, and what is told of the runs, alone if all are left out."""
    if math.isnan(mean):
        return told
    # One run says nothing of the spread.
    spread = "" if math.isnan(half) else f" ± {half:.3f}"
    return f"{mean:z.3f}{spread}" + (f" ({told})" if told else "")


def frame(axes: named_axes.Axes, runs: Mapping[str, Tensor], histories: Mapping[str, Tensor]) -> Any:
    """One row per run, time and test experience: columns of the axes, of what is [*axes], and of histories [*axes, time, T]."""
    pd = checks.optional("pandas", "Runs.to_pandas", "pandas")
    shape = tuple(next(iter(histories.values())).shape)
    index = np.indices(shape).reshape(len(shape), -1)
    columns = [(name, np.array(named_axes.plain(name, labels))[index[a]]) for a, (name, labels) in enumerate(axes.items())]
    columns += [("time", index[-2]), ("test_experience", index[-1])]
    columns += [(name, value.numpy()[tuple(index[:-2])]) for name, value in runs.items()]
    columns += [(name, value.flatten().numpy()) for name, value in histories.items()]
    names = [name for name, _ in columns]
    if len(set(names)) < len(names):
        raise ValueError(f"to_pandas: two columns would have one name, among {names}; rename the axis or the history.")
    return pd.DataFrame(dict(columns))

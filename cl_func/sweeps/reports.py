"""Runs in words: tables with a row for each point of the hyperparameter axes, and a line on which point is best."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from cl_func import checks
from cl_func.sweeps import named_axes, over_seeds, tables
from cl_func.sweeps.named_axes import Axes
from cl_func.sweeps.over_seeds import Numbers


def columns(metric: Any) -> list[tuple[str | None, Any]]:
    """The columns of a table, (head or None, metric): of one metric, of several, or of a mapping from heads to metrics."""
    found: list[tuple[str | None, Any]] = [(None, metric)]
    if isinstance(metric, Mapping):
        found = [(checks.text("metric", head), one) for head, one in metric.items()]
    elif isinstance(metric, Sequence) and not isinstance(metric, (str, bytes, tuple)):
        found = [(None, one) for one in metric]
    if not found:
        raise ValueError(f"metric: expected at least one, got {metric!r}.")
    return found


def table(
    axes: Axes,
    columns: Sequence[tuple[str | None, Numbers]],
    format: tables.Format = "markdown",
    largest: Mapping[str, bool] | None = None,
    n_rows: int | None = None,
    note: str = "",
) -> str:
    """A table of the first points, with a column (head or None, the metric of all runs) for each metric.

    largest: head -> whether larger is better, where that is not known. note: a sentence at the foot of the table.
    """
    header, cells = list(axes)[:-1], list[list[tables.Cell]]()
    largest = dict(largest or {})
    points = list(itertools.islice(over_seeds.points(tuple(map(len, axes.values()))), n_rows))
    for head, numbers in columns:
        mean, half_width = over_seeds.mean_ci(numbers)
        column = [
            tables.Cell(mean[point].item(), half_width[point].item(), over_seeds.counted(numbers, point), numbers.summary.form)
            for point in points
        ]
        fit = [bool(numbers.usable[point].all()) for point in points]
        title = numbers.summary.title if head is None else head
        cells.append(tables.marked(column, fit, largest.pop(title, numbers.summary.larger_is_better)))
        header.append(f"{title} ({len(axes['seed'])} seeds)" if head is None else head)
    if largest:
        raise ValueError(f"largest: {next(iter(largest))!r} is no column of this table, whose heads are {header}.")
    rows: list[list[str | tables.Cell]] = [
        [*named_axes.point_texts(axes, point).values(), *(column[i] for column in cells)] for i, point in enumerate(points)
    ]
    return tables.FORMATS[format](header, rows, len(axes) - 1, note)


def headline(axes: Axes, numbers: Numbers) -> str:
    """The best point with its mean, in words; empty where there is none, or it is not known which is better."""
    summary = numbers.summary
    ranking = over_seeds.ranking(numbers, summary.larger_is_better is not False)
    if not ranking or (summary.larger_is_better is None and len(axes) > 1):
        return ""
    point = ranking[0]
    mean = f"{summary.title} {format(over_seeds.mean_ci(numbers)[0][point].item(), summary.form)}"
    texts = ", ".join(f"{name}={text}" for name, text in named_axes.point_texts(axes, point).items())
    note = over_seeds.counted(numbers, point)
    return f"best {mean} at {texts}{f' ({note})' if note else ''}" if texts else mean

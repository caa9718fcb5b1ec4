"""Runs in words: tables with a row for each point of the hyperparameter axes, and a line on which point is best."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cl_func import checks
from cl_func.sweeps import named_axes, over_seeds, tables
from cl_func.sweeps.named_axes import Axes
from cl_func.sweeps.over_seeds import Numbers
from cl_func.sweeps.selection import CHOSEN, JOINED

CHOICE = "chosen"  # an attribute: the values that `cl.compare` took, and by what they were chosen


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
) -> str:
    """A table of the first points, with a column (head or None, the metric of all runs) for each metric.

    largest: head -> whether larger is better, where that is not known.
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
    return tables.FORMATS[format](header, rows, len(axes) - 1)


def chosen(axes: Axes, attributes: Mapping[str, Any]) -> list[str]:
    """What `cl.compare` has chosen, in a sentence: "Hyperparameters of ER (opt.lr=0.1), LwF (lwf.strength=1) chosen by ..."."""
    found = dict[str, list[str]]()
    for labels, choice in _choices(axes, attributes, ()):
        values = ", ".join(f"{path}={named_axes.texts('', [value])[0]}" for path, value in choice["values"].items())
        found.setdefault(choice["by"], []).append(f"{', '.join(labels)} ({values})" if labels else values)
    parts = [f"{'of ' if JOINED in attributes else ''}{', '.join(names)} {by}" for by, names in found.items()]
    return [f"Hyperparameters {'; '.join(parts)}."] if parts else []


def _choices(
    axes: Axes, attributes: Mapping[str, Any], labels: tuple[str, ...], at: Mapping[str, Any] | None = None
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """The labels of joined Runs that are still there, with what was chosen for them."""
    if CHOICE in attributes:
        yield labels, attributes[CHOICE]
    at = {**(at or {}), **attributes.get(CHOSEN, {})}
    for axis, parts in attributes.get(JOINED, {}).items():
        there = axes[axis] if axis in axes else [at.get(axis)]
        for label, part in parts.items():
            if label in there:
                yield from _choices(axes, part["attributes"], (*labels, str(label)) if axis in axes else labels, at)


def headline(axes: Axes, numbers: Numbers) -> str:
    """The best point with its mean, in words; empty where there is none."""
    summary = numbers.summary
    point = over_seeds.best(numbers, summary.larger_is_better is not False)
    if point is None:
        return ""
    mean = f"{summary.title} {format(over_seeds.mean_ci(numbers)[0][point].item(), summary.form)}"
    texts = ", ".join(f"{name}={text}" for name, text in named_axes.point_texts(axes, point).items())
    note = over_seeds.counted(numbers, point)
    return f"best {mean} at {texts}{f' ({note})' if note else ''}" if texts else mean

"""A metric over two hyperparameters as a heat map; see `cl_func.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from cl_func import checks
from cl_func.plots import canvas, heat
from cl_func.tree import describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cl_func.plots.picture import Picture


def hyperparameter_grid(
    values: Tensor,
    metric: str,
    *,
    rows: tuple[str, Sequence[str]],
    columns: tuple[str, Sequence[str]],
    notes: Mapping[tuple[int, ...], str] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    xlabel: str | None = None,
    ylabel: str | None = None,
    higher_is_better: bool | None = None,
) -> Picture:
    r"""A metric over two hyperparameters as a heat map with numbers.

    values: floating [rows, columns]; cells with NaN stay empty. metric: its name, which determines the scale.
    rows, columns: the name of each axis and the labels of its points.
    notes: (row, column) -> a text shown below the number of that cell, such as "2 of 10\ndiverged".
    ax: the Axes to draw on, and to return; by default those of a new figure.
    xlabel, ylabel: by default the names of the axes.
    higher_is_better: for a metric that is not made of accuracies, as in `cl.metrics`: False where lower is better, as for a mean of
        errors. Its scale is that of the values.
    Raises ValueError for values outside the scale.
    """
    checks.choice("higher_is_better", higher_is_better, True, False, None)
    heat.scale(metric)
    canvas.check_texts(title=title, xlabel=xlabel, ylabel=ylabel)
    notes = {} if notes is None else notes
    if not isinstance(values, Tensor) or not values.is_floating_point() or values.is_meta or values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"values: expected a floating tensor [rows, columns], got {describe(values)}.")
    for name, axis, count in zip(("rows", "columns"), (rows, columns), values.shape, strict=True):
        if not isinstance(axis, tuple) or len(axis) != 2 or not isinstance(axis[0], str) or not canvas.are_texts(axis[1]):
            raise checks.type_error(name, "a name and its labels such as ('opt.lr', ['0.1', '0.3'])", axis)
        if len(axis[1]) != count:
            raise ValueError(f"{name}: {len(axis[1])} labels for {count} {name} of values {describe(values)}.")
    if not isinstance(notes, Mapping) or not canvas.are_texts(list(notes.values())):
        raise checks.type_error("notes", "a mapping from (row, column) to a text", notes)
    values = values.detach().cpu().double()
    cmap, (low, high) = heat.scale_of(values, metric, higher_is_better)
    form = heat.form(higher_is_better)
    outside = values[~((values >= low - 1e-6) & (values <= high + 1e-6) | values.isnan())]
    if len(outside):
        raise ValueError(f"values: {metric} lies in [{low:g}, {high:g}], got {outside[0].item():.6g}; divide percentages by 100.")
    found = canvas.axes(ax, *heat.size(values, notes, form, rows[1]), "compressed")
    image = heat.draw(found, values, cmap, (low, high), title, notes, form)
    heat.ticks(found, rows[1], columns[1])
    found.set(xlabel=columns[0] if xlabel is None else xlabel, ylabel=rows[0] if ylabel is None else ylabel)
    heat.color_bar(image, found, metric.replace("_", " "))
    return found

"""Curves and matrices of runs; see `cl_func.plots`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from cl_func import checks, metrics
from cl_func.plots import heat
from cl_func.tree import describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")


def _figure(width: float, height: float, layout: Literal["constrained", "compressed"]) -> Figure:
    # Not by pyplot, which may open a window and keeps its figures alive.
    return checks.optional("matplotlib.figure", "cl_func.plots", "plots").Figure(figsize=(width, height), layout=layout, dpi=150)


def _axes(ax: Axes | None, width: float, height: float, layout: Literal["constrained", "compressed"]) -> tuple[Figure, Axes]:
    """The figure to return and the axes to draw on."""
    if ax is None:
        figure = _figure(width, height, layout)
        return figure, figure.add_subplot()
    checks.function("ax", getattr(ax, "imshow", None), "None or Axes of matplotlib")
    return ax.figure.figure, ax  # of a subfigure the figure that it is in


def accuracy_timeline(
    curves: Mapping[str, Tensor],
    *,
    confidence: float = 0.95,
    ax: Axes | None = None,
    xlabel: str = "experiences trained on",
    ylabel: str = "average accuracy",
    missing: Sequence[str] = (),
    higher_is_better: bool | None = None,
) -> Figure:
    """One line per name over time 1, 2, ...: the mean over the seeds, within a band of its Student t confidence interval.

    curves: tensors [S, time], or [time] for one run (which has no band), of values in [0, 1]:
        `{"ER": cl.metrics.average_accuracy(R)}`. The legend lists them by the last value of their lines, best first.
    missing: names that the legend lists last, without a line, such as settings whose runs all diverged.
    higher_is_better: for values of another measure, as in `cl.metrics`: False for errors. The axis then has a scale of its own.
    """
    _check_named("curves", curves, "{'ER': cl.metrics.average_accuracy(R)}", missing)
    checks.number("confidence", confidence, 0, 1)
    checks.text("xlabel", xlabel)
    checks.text("ylabel", ylabel)
    for name, values in curves.items():
        if metrics._check_accuracies(f"curves[{name!r}]", values, 1, higher_is_better).ndim > 2:
            raise ValueError(
                f"curves[{name!r}]: expected [seeds, time] or [time], got {list(values.shape)}; take the runs of one setting."
            )
    width = 4.5 + 0.08 * max(map(len, [*curves, *missing]))  # with room for the legend beside the lines
    figure, ax = _axes(ax, max(6.0, width), 3.5, layout="constrained")
    from matplotlib.ticker import MaxNLocator

    longest = 1
    last: dict[Line2D, float] = {}
    for i, (name, values) in enumerate(curves.items()):
        values = values.detach().cpu().double()
        runs = values if values.ndim == 2 else values[None]
        mean, half = metrics.mean_ci(runs, confidence)
        time = range(1, len(mean) + 1)
        color = PALETTE[i % len(PALETTE)]
        marker = MARKERS[i % len(MARKERS)] if len(mean) <= 20 else None
        dashes = DASHES[i // len(PALETTE) % len(DASHES)]
        (line,) = ax.plot(
            time, mean.tolist(), color=color, marker=marker, linestyle=dashes, markersize=4.5, linewidth=1.8, label=name
        )
        line.set(clip_on=False, zorder=3)  # a marker at accuracy 1 lies on the frame, which would cut it in half
        if len(runs) > 1:
            ax.fill_between(time, (mean - half).tolist(), (mean + half).tolist(), color=color, alpha=0.18, linewidth=0)
        longest, last[line] = max(longest, len(mean)), mean[-1].item()
    margin = 0.02 * (longest - 1) or 0.5
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(1 - margin, longest + margin))
    if higher_is_better is None:
        ax.set_ylim(0, 1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    lines = sorted(last, key=last.__getitem__, reverse=higher_is_better is not False)
    names = [str(line.get_label()) for line in lines] + list(missing)
    lines += [ax.plot([], [], linestyle="none")[0] for _ in missing]
    numbers = [str(i) for i in range(len(lines))]
    legend = ax.legend(lines, numbers, loc="upper left", bbox_to_anchor=(1.02, 1.02), borderaxespad=0, frameon=False)
    # The names are set afterwards, since matplotlib before 3.10 leaves names that start with "_" out of a legend.
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)
    return figure


def matrix(
    R: Tensor,
    *,
    title: str | None = None,
    ax: Axes | None = None,
    measure: str = "accuracy",
    higher_is_better: bool | None = None,
) -> Figure:
    """An accuracy matrix as a heat map with numbers; R [time, T], or [S, time, T], of which the mean over the seeds is drawn.

    measure, higher_is_better: the name of what R holds, where it is no accuracy, and which way it is better, as in `cl.metrics`.
    """
    checks.text("measure", measure)
    values = _mean("R", R, None, higher_is_better)
    _check_title(title)
    form = heat.form(higher_is_better)
    figure, ax = _axes(ax, *heat.size(values, {}, form), layout="compressed")
    image = heat.draw(ax, values, *heat.scale_of(values, "accuracy", higher_is_better), title, form=form)
    ax.set(xlabel="test experience", ylabel=_time_label(values))
    heat.color_bar(image, ax, measure)
    return figure


def matrices(
    matrices: Mapping[str, Tensor],
    *,
    missing: Sequence[str] = (),
    measure: str = "accuracy",
    higher_is_better: bool | None = None,
) -> Figure:
    """Several accuracy matrices under their names, at most four in a row, with one colour bar; each is drawn as by `matrix`.

    missing: names shown last, over empty panels, such as settings whose runs all diverged.
    measure, higher_is_better: as in `matrix`.
    """
    checks.text("measure", measure)
    _check_named("matrices", matrices, "{'ER': R}", missing)
    means = {name: _mean(f"matrices[{name!r}]", R, None, higher_is_better) for name, R in matrices.items()}
    shape = next(iter(means.values())).shape if means else (1, 1)
    means |= dict.fromkeys(missing, torch.full(shape, math.nan, dtype=torch.float64))
    form = heat.form(higher_is_better)
    scale = heat.scale_of(torch.cat([values.flatten() for values in means.values()]), "accuracy", higher_is_better)
    rows = math.ceil(len(means) / 4)
    columns = math.ceil(len(means) / rows)
    width, height = (max(sizes) for sizes in zip(*(heat.size(values, {}, form) for values in means.values()), strict=True))
    figure = _figure(columns * (width - 1.1) + 1.1, rows * height, layout="compressed")
    grid = figure.subplots(rows, columns, squeeze=False)
    images = []
    for i, (ax, (name, values)) in enumerate(zip(grid.flat, means.items(), strict=False)):
        images.append(heat.draw(ax, values, *scale, name, form=form))
        ax.set_xlabel("test experience" if i + columns >= len(means) else "")  # if no matrix is below it
        ax.set_ylabel(_time_label(values) if i % columns == 0 else "")
    for ax in grid.flat[len(means) :]:
        ax.set_axis_off()
    heat.color_bar(images[-1], grid, measure)
    return figure


def forgetting_matrix(
    R: Tensor,
    *,
    seen: Tensor | Sequence[int] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
    higher_is_better: bool | None = None,
) -> Figure:
    """`cl.metrics.forgetting_matrix` of an accuracy matrix R as a heat map: orange is forgotten, purple is better than before.

    R is [time, T], or [S, time, T], of which the mean over the seeds is drawn; `seen` is as in `cl.metrics`. Cells in which nothing
    can be forgotten yet stay empty. higher_is_better: for another measure, as in `cl.metrics`: False for errors.
    """
    values = _mean("R", R, metrics.forgetting_matrix(R, seen, higher_is_better=higher_is_better), higher_is_better)
    _check_title(title)
    counts = range(1, len(values) + 1) if seen is None else [int(count) for count in seen]
    for i, count in enumerate(counts):
        values[i, count - 1 if i else 0 :] = math.nan
    form = heat.form(higher_is_better)
    figure, ax = _axes(ax, *heat.size(values, {}, form), layout="compressed")
    image = heat.draw(ax, values, *heat.scale_of(values, "forgetting", higher_is_better), title, form=form)
    ax.set(xlabel="test experience", ylabel=_time_label(values))
    heat.color_bar(image, ax, "forgetting")
    return figure


def hyperparameter_grid(
    values: Tensor,
    metric: str,
    *,
    rows: tuple[str, Sequence[str]],
    columns: tuple[str, Sequence[str]],
    notes: Mapping[tuple[int, ...], str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
    higher_is_better: bool | None = None,
) -> Figure:
    r"""A metric over two hyperparameters as a heat map with numbers.

    values: floating [rows, columns]; cells with NaN stay empty. metric: its name, which determines the scale.
    rows, columns: the name of each axis and the labels of its points.
    notes: (row, column) -> a text shown below the number of that cell, such as "2 of 10\ndiverged".
    higher_is_better: for a metric that is not made of accuracies, as in `cl.metrics`: False where lower is better, as for a mean of
        errors. Its scale is that of the values.
    Raises ValueError for values outside the scale.
    """
    checks.choice("higher_is_better", higher_is_better, True, False, None)
    heat.scale(metric)
    _check_title(title)
    notes = {} if notes is None else notes
    if not isinstance(values, Tensor) or not values.is_floating_point() or values.is_meta or values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"values: expected a floating tensor [rows, columns], got {describe(values)}.")
    for name, axis, count in zip(("rows", "columns"), (rows, columns), values.shape, strict=True):
        if not isinstance(axis, tuple) or len(axis) != 2 or not isinstance(axis[0], str) or not _are_texts(axis[1]):
            raise checks.type_error(name, "a name and its labels such as ('opt.lr', ['0.1', '0.3'])", axis)
        if len(axis[1]) != count:
            raise ValueError(f"{name}: {len(axis[1])} labels for {count} {name} of values {describe(values)}.")
    if not isinstance(notes, Mapping) or not _are_texts(list(notes.values())):
        raise checks.type_error("notes", "a mapping from (row, column) to a text", notes)
    values = values.detach().cpu().double()
    cmap, (low, high) = heat.scale_of(values, metric, higher_is_better)
    form = heat.form(higher_is_better)
    outside = values[~((values >= low - 1e-6) & (values <= high + 1e-6) | values.isnan())]
    if len(outside):
        raise ValueError(f"values: {metric} lies in [{low:g}, {high:g}], got {outside[0].item():.6g}; divide percentages by 100.")
    figure, ax = _axes(ax, *heat.size(values, notes, form), layout="compressed")
    image = heat.draw(ax, values, cmap, (low, high), title, notes, form)
    for scaled, (name, labels) in ((ax.yaxis, rows), (ax.xaxis, columns)):
        step = -(-len(labels) // 20)
        upright = scaled is ax.xaxis and max(map(len, labels)) > 5
        scaled.set_ticks(range(1, len(labels) + 1, step), list(labels[::step]), rotation=90 if upright else 0)
        scaled.set_label_text(name)
    heat.color_bar(image, ax, metric.replace("_", " "))
    return figure


def _are_texts(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(isinstance(value, str) for value in values)


def _time_label(values: Tensor) -> str:
    """The name of the rows of a matrix: training experiences, unless the numbers of times and of experiences differ."""
    return "after experience" if values.shape[0] == values.shape[1] else "time"


def _check_named(name: str, values: Any, example: str, missing: Any) -> None:
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise checks.type_error(name, f"a mapping from names, such as {example}", values)
    if not _are_texts(missing):
        raise checks.type_error("missing", "a list of names", missing)
    if not values and not missing:
        raise ValueError(f"{name}: nothing to draw; give at least one, such as {example}.")
    if any(key in values for key in missing):
        raise ValueError(f"missing: {[key for key in missing if key in values]} are in {name} too.")


def _check_title(title: Any) -> None:
    if title is not None:
        checks.text("title", title)


def _mean(name: str, R: Tensor, values: Tensor | None = None, higher_is_better: bool | None = None) -> Tensor:
    """The matrix [time, T] to draw: the mean over the seeds, if it has any, of R, or of `values` computed from R."""
    metrics._check_accuracies(name, R, 2, higher_is_better)
    if R.ndim > 3:
        raise ValueError(f"{name}: expected [time, T] or [seeds, time, T], got {list(R.shape)}; take the runs of one setting.")
    values = (R if values is None else values).detach().cpu().double()
    return values.mean(0) if values.ndim == 3 else values.clone()

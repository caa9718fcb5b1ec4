"""The figures of Runs, from their axes, what went wrong with them, and a history or a metric."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from torch import Tensor

from cl_func import metrics, plots
from cl_func.sweeps import named_axes, over_seeds, summaries
from cl_func.sweeps.named_axes import Axes
from cl_func.sweeps.over_seeds import Numbers, Standing

if TYPE_CHECKING:
    from cl_func.plots import Picture


def timeline(axes: Axes, standing: Standing, history: str, R: Tensor) -> Picture:
    """The average over time of a history [*axes, seed, time, T] that stands for the accuracy, a line for each point."""
    curves, missing = _by_point(axes, standing, R)
    measure = summaries.measured(history)
    higher = summaries.MEASURES[measure]
    return plots.accuracy_timeline(
        {name: metrics.average_accuracy(R, higher_is_better=higher) for name, R in curves.items()},
        ylabel=f"average {measure}".replace("_", " "),
        missing=missing,
        higher_is_better=higher,
    )


def matrix(axes: Axes, standing: Standing, history: str, R: Tensor) -> Picture:
    """The mean matrix of each point of the same."""
    matrices, missing = _by_point(axes, standing, R)
    measure = summaries.measured(history)
    higher = summaries.MEASURES[measure]
    return plots.matrices(matrices, missing=missing, measure=measure.replace("_", " "), higher_is_better=higher)


def grid(axes: Axes, numbers: Numbers) -> Picture:
    """The mean of a metric over two hyperparameter axes as a heat map; ValueError unless there are exactly two."""
    names, summary = list(axes)[:-1], numbers.summary
    if len(names) != 2:
        raise ValueError(f"plot_grid: draws two hyperparameter axes, these runs have {names}.")
    mean, _ = over_seeds.mean_ci(numbers)
    rows, columns = ((name, named_axes.texts(name, axes[name])) for name in names)
    notes = {
        point: "\n".join(itertools.chain(*over_seeds.counts(numbers, point))).replace("constant ", "constant\n")
        for point in over_seeds.points(numbers.values.shape)
    }
    return plots.hyperparameter_grid(
        mean,
        summary.name or summary.title,
        rows=rows,
        columns=columns,
        notes=notes,
        title=over_seeds.counted(numbers) or None,
        higher_is_better=None if summary.bounded else summary.larger_is_better is not False,
    )


def _by_point(axes: Axes, standing: Standing, R: Tensor) -> tuple[dict[str, Tensor], list[str]]:
    """The matrices of the runs that have not diverged, by the name of their point; and the names of points without any."""
    if not bool(standing.finished.all()):
        raise ValueError("some runs are not finished; sweep again with resume=FOLDER to complete them.")
    usable, found, missing = ~standing.diverged, dict[str, Tensor](), list[str]()
    for point in over_seeds.points(usable.shape):
        name = ", ".join(f"{axis}={text}" for axis, text in named_axes.point_texts(axes, point).items()) or "mean"
        name += f" ({summary})" if (summary := over_seeds.counted(standing, point)) else ""
        if usable[point].any():
            found[name] = R[point][usable[point]]
        else:
            missing.append(name)
    return found, missing

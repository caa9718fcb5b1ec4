"""The figures of Runs, from their axes, what went wrong with them, and a history or a metric.

Runs that diverged or are not finished are left out of every mean, and every figure says of which point, and how many.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cl_func import checks, metrics, plots
from cl_func.metrics.measures import BY_LAYER, in_words, measured, of_evaluation
from cl_func.plots import searches
from cl_func.sweeps import named_axes, over_seeds
from cl_func.sweeps.named_axes import Axes
from cl_func.sweeps.over_seeds import Numbers, Standing
from cl_func.tree import describe

if TYPE_CHECKING:
    from cl_func.plots import Picture

HIGHEST: dict[str, float] = {"r2": 1.0}  # of measures that have no other end of their scale


def timeline(
    axes: Axes,
    standing: Standing,
    history: str,
    values: Tensor,
    higher: bool | None,
    labels: Any,
    options: dict[str, Any],
    aligned: bool,
) -> Picture:
    """A history [*axes, seed, time], or [*axes, seed, time, T] averaged over what has been seen, with a line for each point.

    Of what is measured by layer, [*axes, seed, time, L], there is a line for each layer of each point.
    higher: which way it is better, as in `cl.metrics`. aligned: as in `summaries.values`.
    """
    curves, missing = by_point(axes, standing, values if values.is_floating_point() else values.double(), labels)
    measure = measured(history)
    words = {"xlabel": "experiences trained on", "ylabel": f"average {in_words(history)}"}
    ndim = values.ndim - len(axes)
    if ndim == 1:
        words = {"xlabel": "time", "ylabel": in_words(history)}
    elif ndim == 2 and measure.endswith(BY_LAYER):
        words = {"xlabel": "time", "ylabel": in_words(history, measure.removesuffix(BY_LAYER))}
        heads = {name: f"{name}, " if len(curves) > 1 else "" for name in curves}
        curves = {f"{heads[name]}layer {i}": R[..., i] for name, R in curves.items() for i in range(values.shape[-1])}
    elif ndim != 2:
        raise ValueError(f"history: expected one by time, or by time and test experience, but {history!r} is {describe(values)}.")
    elif aligned and values.shape[-1] == values.shape[-2]:
        curves = {name: metrics.average_accuracy(R, higher_is_better=higher) for name, R in curves.items()}
    else:  # it is not known what has been seen when
        words = {"xlabel": "time", "ylabel": in_words(history, f"mean {measure} of all experiences")}
        curves = {name: R.mean(-1) for name, R in curves.items()}
    limits = {"ylim": (None, HIGHEST[measure])} if measure in HIGHEST else {}
    return plots.accuracy_timeline(curves, missing=missing, higher_is_better=higher, **{**words, **limits, **options})


def matrix(
    axes: Axes, standing: Standing, history: str, R: Tensor, higher: bool | None, labels: Any, options: dict[str, Any]
) -> Picture:
    """The mean matrix of each point, of a history [*axes, seed, time, T]."""
    _check_matrix(axes, history, R)
    found, missing = by_point(axes, standing, R, labels)
    return plots.matrices(found, missing=missing, higher_is_better=higher, **{"measure": in_words(history), **options})


def forgetting(
    axes: Axes, standing: Standing, history: str, R: Tensor, higher: bool | None, labels: Any, options: dict[str, Any]
) -> Picture:
    """The curve of each test experience, of a history [*axes, seed, time, T]: a panel for each, or for one point one for all."""
    _check_matrix(axes, history, R)
    found, missing = by_point(axes, standing, R, labels)
    words = {"ylabel": in_words(history)}
    if len(found) == 1 and not missing:
        note = over_seeds.counted(standing)
        if note and options.get("title") is None:
            options = {**options, "title": note}
        return plots.forgetting_curves(next(iter(found.values())), higher_is_better=higher, **{**words, **options})
    return plots.forgetting_curves(found, missing=missing, higher_is_better=higher, **{**words, **options})


def classes(axes: Axes, standing: Standing, history: str, values: Tensor, labels: Any, options: dict[str, Any]) -> Picture:
    """The accuracy of each class over time, of a history [*axes, seed, time, C], with a panel for each point."""
    if values.ndim != len(axes) + 2:
        raise ValueError(f"history: expected one by time and class, but {history!r} is {describe(values)}.")
    found, missing = by_point(axes, standing, values, labels)
    words = {"title": in_words(history)} if "." in history else {}
    return plots.class_heatmap(found, missing=missing, **{**words, **options})


def curve(axes: Axes, standing: Standing, name: str, curves: Tensor, labels: Any, options: dict[str, Any]) -> Picture:
    """A trace [*axes, seed, step], with a line for each point."""
    found, missing = by_point(axes, standing, curves, labels)
    return plots.learning_curve(found, missing=missing, **{"ylabel": name.replace("_", " "), **options})


def grid(axes: Axes, numbers: Numbers, largest: bool | None, options: dict[str, Any]) -> Picture:
    """The mean of a metric over two hyperparameter axes as a heat map; ValueError unless there are exactly two."""
    names = list(axes)[:-1]
    if len(names) != 2:
        raise ValueError(
            f"plot_grid: draws two hyperparameter axes, these runs have {names}; plot_scatter and plot_parallel draw any number."
        )
    mean, _ = over_seeds.mean_ci(numbers)
    rows, columns = ((name, named_axes.texts(name, axes[name])) for name in names)
    notes = {
        point: "\n".join(itertools.chain(*over_seeds.counts(numbers, point))).replace("constant ", "constant\n")
        for point in over_seeds.points(numbers.values.shape)
    }
    given = _metric(numbers, _larger(numbers, largest))
    return plots.hyperparameter_grid(mean, given.pop("metric"), rows=rows, columns=columns, notes=notes, **{**given, **options})


def search(
    axes: Axes, numbers: Numbers, scales: dict[str, str], parallel: bool, largest: bool | None, options: dict[str, Any]
) -> Picture:
    """A metric against each path of the hyperparameter axes, or with all of them side by side, in parallel.

    scales: what the values of paths were drawn on, where that is known. largest: whether larger is better, where that is not.
    """
    points: dict[str, list[Any]] = {}
    for point in over_seeds.points(numbers.values.shape):
        for (name, labels), i in zip(axes.items(), point, strict=False):
            for path, label in named_axes.flat(name, labels[i]).items():
                points.setdefault(path, []).append(label)
    if not points:
        raise ValueError("plot_scatter, plot_parallel: these runs have no hyperparameter axes; sweep some with hparams=.")
    values = numbers.values.masked_fill(~numbers.usable, float("nan")).flatten(0, -2)
    draw = plots.parallel_coordinates if parallel else plots.hyperparameter_scatter
    log = [path for path, column in points.items() if scales.get(path, "log" if searches.is_even_on_log(column) else "") == "log"]
    larger = _larger(numbers, largest)
    given = {"log": log, "largest": larger, **({} if parallel else {"mark_best": larger is not None}), **_metric(numbers, larger)}
    return draw(points, values, given.pop("metric"), **{**given, **options})


def _larger(numbers: Numbers, largest: bool | None) -> bool | None:
    """Whether larger numbers are better, as is said or known; None if it is neither."""
    return numbers.summary.larger_is_better if checks.choice("largest", largest, True, False, None) is None else largest


def _metric(numbers: Numbers, larger: bool | None) -> dict[str, Any]:
    """What is said of a metric: its name, what went wrong with runs as the title, and which way it is better."""
    summary = numbers.summary
    return {
        "metric": summary.title if summary.name is None else of_evaluation(summary.history, summary.name),
        "title": over_seeds.counted(numbers) or None,
        "higher_is_better": None if summary.bounded else larger is not False,
    }


def _check_matrix(axes: Axes, history: str, R: Tensor) -> None:
    if R.ndim != len(axes) + 2:
        raise ValueError(f"history: expected one by time and test experience, but {history!r} is {describe(R)}.")


def by_point(axes: Axes, standing: Standing, R: Tensor, labels: Any = None) -> tuple[dict[str, Tensor], list[str]]:
    """What there is of the runs that went well, [seeds, ...] by the name of their point; and the names of points without any.

    labels: the names of the points, in order, or None. A name says how many runs diverged, are unfinished, or constant.
    """
    usable, found, missing = standing.finished & ~standing.diverged, dict[str, Tensor](), list[str]()
    points = list(over_seeds.points(usable.shape))
    if labels is not None and (not isinstance(labels, Sequence) or isinstance(labels, str)):
        raise checks.type_error("labels", "None or a list of names", labels)
    if labels is not None and (len(labels) != len(points) or len({*map(repr, labels)}) < len(points)):
        raise ValueError(f"labels: expected a name of its own for each of the {len(points)} points, got {labels}.")
    names = _names(axes, points) if labels is None else [checks.text("labels", label) for label in labels]
    for name, point in zip(names, points, strict=True):
        name += f" ({summary})" if (summary := over_seeds.counted(standing, point)) else ""
        if usable[point].any():
            found[name] = R[point][usable[point]]
        else:
            missing.append(name)
    return found, missing


def _names(axes: Axes, points: Sequence[over_seeds.Point]) -> list[str]:
    """The names of points, by their labels: "ER, opt.lr=0.1"; of labels that are texts without the axis, if they then differ."""
    for short in (True, False):
        found = []
        for point in points:
            texts = named_axes.point_texts(axes, point)
            known = [short and isinstance(axes[axis][i], str) for axis, i in zip(texts, point, strict=True)]
            parts = [text if one else f"{axis}={text}" for (axis, text), one in zip(texts.items(), known, strict=True)]
            found.append(", ".join(parts) or "mean")
        if len(set(found)) == len(found):
            break
    return found

"""Matrices of runs as heat maps: accuracies, forgetting, and the accuracy of each class; see `cl_func.plots`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cl_func import checks, metrics
from cl_func.metrics.checking import check_accuracies
from cl_func.plots import canvas, heat
from cl_func.tree import describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cl_func.plots.picture import Picture


def matrix(
    R: Tensor,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    xlabel: str = "test experience",
    ylabel: str | None = None,
    labels: Sequence[str] | None = None,
    measure: str = "accuracy",
    higher_is_better: bool | None = None,
) -> Picture:
    """An accuracy matrix as a heat map with numbers; R [time, T], or [S, time, T], of which the mean over the seeds is drawn.

    ax: the Axes to draw on, and to return; by default those of a new figure.
    ylabel: by default "after experience", or "time" where there are more or fewer times than experiences.
    labels: the names of the test experiences, T of them; by default they are numbered from 1.
    measure, higher_is_better: the name of what R holds, where it is no accuracy, and which way it is better, as in `cl.metrics`.
    """
    values = _mean("R", R, None, higher_is_better)
    return _one(values, "accuracy", ax, title, (xlabel, ylabel), labels, measure, higher_is_better)


def forgetting_matrix(
    R: Tensor,
    *,
    seen: Tensor | Sequence[int] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    xlabel: str = "test experience",
    ylabel: str | None = None,
    labels: Sequence[str] | None = None,
    higher_is_better: bool | None = None,
) -> Picture:
    """`cl.metrics.forgetting_matrix` of an accuracy matrix R as a heat map: orange is forgotten, purple is better than before.

    R is [time, T], or [S, time, T], of which the mean over the seeds is drawn; `seen` is as in `cl.metrics`. Cells in which nothing
    can be forgotten yet stay empty. higher_is_better: for another measure, as in `cl.metrics`: False for errors. The others are
    those of `matrix`.
    """
    values = _mean("R", R, metrics.forgetting_matrix(R, seen, higher_is_better=higher_is_better), higher_is_better)
    counts = range(1, len(values) + 1) if seen is None else [int(count) for count in seen]
    for i, count in enumerate(counts):
        values[i, count - 1 if i else 0 :] = math.nan
    return _one(values, "forgetting", ax, title, (xlabel, ylabel), labels, "forgetting", higher_is_better)


def matrices(
    matrices: Mapping[str, Tensor],
    *,
    missing: Sequence[str] = (),
    ax: Axes | None = None,
    title: str | None = None,
    xlabel: str = "test experience",
    ylabel: str | None = None,
    labels: Sequence[str] | None = None,
    measure: str = "accuracy",
    higher_is_better: bool | None = None,
) -> Picture:
    """Several accuracy matrices under their names, at most four in a row, with one colour bar; each is drawn as by `matrix`.

    missing: names shown last, over empty panels, such as settings whose runs all diverged.
    ax: Axes that have a place in a grid, which the panels then share; the frame around them is returned.
    The others are those of `matrix`.
    """
    canvas.check_named("matrices", matrices, "{'ER': R}", missing)
    means = {name: _mean(f"matrices[{name!r}]", R, None, higher_is_better) for name, R in matrices.items()}
    return _several(means, missing, ax, title, (xlabel, ylabel), labels, measure, higher_is_better)


def class_heatmap(
    values: Tensor | Mapping[str, Tensor],
    *,
    missing: Sequence[str] = (),
    ax: Axes | None = None,
    title: str | None = None,
    xlabel: str = "after experience",
    ylabel: str = "class",
    labels: Sequence[str] | None = None,
) -> Picture:
    """The accuracy of each class over time as a heat map, a row for each class.

    values: the history "class_accuracy", [time, C], or [S, time, C], of which the mean over the seeds is drawn, NaN where no seed
        has rows of a class; or a mapping from names to such tensors, of which each has a panel, as in `matrices`.
    labels: the names of the classes, C of them, such as `cl.data.class_names(...)`; by default they are numbered from 0.
    """
    checks.text("ylabel", ylabel)
    if isinstance(values, Tensor):
        if not canvas.are_texts(missing):
            raise checks.type_error("missing", "a list of names", missing)
        if missing:
            raise ValueError(f"missing: of a single tensor none can be missing, got {missing!r}; give a mapping from names.")
        checked = _classes("values", values)
        return _one(checked, "accuracy", ax, title, (xlabel, ylabel), labels, "accuracy", None, classes=True)
    canvas.check_named("values", values, "{'ER': history['class_accuracy']}", missing)
    means = {name: _classes(f"values[{name!r}]", value) for name, value in values.items()}
    return _several(means, missing, ax, title, (xlabel, ylabel), labels, "accuracy", None, classes=True)


def _one(
    values: Tensor,
    scale: str,
    ax: Axes | None,
    title: str | None,
    words: tuple[str, str | None],
    labels: Any,
    measure: str,
    higher_is_better: bool | None,
    classes: bool = False,
) -> Picture:
    """One heat map of values [rows, columns], with its colour bar; words: the names of the horizontal and the vertical axis."""
    _check_words(title, words, measure)
    rows, columns = _names(values, labels, classes)
    form = heat.form(higher_is_better)
    found = canvas.axes(ax, *heat.size(values, {}, form, rows), "compressed")
    image = heat.draw(found, values, *heat.scale_of(values, scale, higher_is_better), title, form=form)
    heat.ticks(found, rows, columns)
    found.set(xlabel=words[0], ylabel=_time_label(values) if words[1] is None else words[1])
    heat.color_bar(image, found, measure)
    return found


def _several(
    means: dict[str, Tensor],
    missing: Sequence[str],
    ax: Axes | None,
    title: str | None,
    words: tuple[str, str | None],
    labels: Any,
    measure: str,
    higher_is_better: bool | None,
    classes: bool = False,
) -> Picture:
    """The same of several under their names, and empty panels for those that are missing."""
    _check_words(title, words, measure)
    shape = next(iter(means.values())).shape if means else (1, 1)
    means = means | dict.fromkeys(missing, torch.full(shape, math.nan, dtype=torch.float64))
    names = [_names(values, labels, classes) for values in means.values()]
    form = heat.form(higher_is_better)
    scale = heat.scale_of(torch.cat([values.flatten() for values in means.values()]), "accuracy", higher_is_better)
    rows = math.ceil(len(means) / 4)
    columns = math.ceil(len(means) / rows)
    sizes = [heat.size(values, {}, form, of[0]) for values, of in zip(means.values(), names, strict=True)]
    width, height = (max(ends) for ends in zip(*sizes, strict=True))
    size = columns * (width - 1.1) + 1.1, rows * height + (0.3 if title else 0.0)
    frame, panels = canvas.panels(ax, list(means), columns, size, "compressed")
    canvas.entitle(frame, title, framed=True)
    images = []
    for i, (panel, (name, values)) in enumerate(zip(panels, means.items(), strict=True)):
        images.append(heat.draw(panel, values, *scale, name, form=form))
        heat.ticks(panel, *names[i])
        ylabel = _time_label(values) if words[1] is None else words[1]
        panel.set_xlabel(words[0] if i + columns >= len(means) else "")  # if no matrix is below it
        panel.set_ylabel(ylabel if i % columns == 0 else "")
    heat.color_bar(images[-1], panels, measure)
    return frame


def _names(values: Tensor, labels: Any, classes: bool) -> tuple[list[str] | None, list[str] | None]:
    """The names of the rows and of the columns, one of which the labels are for; None for numbers from 1."""
    n = values.shape[0 if classes else 1]
    if labels is not None:
        if not canvas.are_texts(labels):
            raise checks.type_error("labels", "None or a list of names", labels)
        if len(labels) != n:
            raise ValueError(
                f"labels: expected a name for each of the {n} {'classes' if classes else 'experiences'}, got {labels}."
            )
    if classes:
        return [str(i) for i in range(n)] if labels is None else list(labels), None
    return None, None if labels is None else list(labels)


def _check_words(title: Any, words: tuple[Any, Any], measure: Any) -> None:
    canvas.check_texts(title=title, ylabel=words[1])
    checks.text("xlabel", words[0])
    checks.text("measure", measure)


def _time_label(values: Tensor) -> str:
    """The name of the rows of a matrix: training experiences, unless the numbers of times and of experiences differ."""
    return "after experience" if values.shape[0] == values.shape[1] else "time"


def _mean(name: str, R: Tensor, values: Tensor | None = None, higher_is_better: bool | None = None) -> Tensor:
    """The matrix [time, T] to draw: the mean over the seeds, if it has any, of R, or of `values` computed from R."""
    check_accuracies(name, R, 2, higher_is_better)
    return _over_seeds(name, R, R if values is None else values, Tensor.mean)


def _classes(name: str, values: Any) -> Tensor:
    """The matrix [C, time] of the accuracies of classes."""
    if not isinstance(values, Tensor) or not values.is_floating_point() or values.is_meta or values.ndim < 2:
        raise ValueError(f"{name}: expected a floating tensor [time, C] or [seeds, time, C], got {describe(values)}.")
    check_accuracies(name, values.nan_to_num(0.0), 2)
    return _over_seeds(name, values, values, Tensor.nanmean).T


def _over_seeds(name: str, R: Tensor, values: Tensor, mean: Callable[..., Tensor]) -> Tensor:
    if R.ndim > 3:
        raise ValueError(f"{name}: expected [time, T] or [seeds, time, T], got {list(R.shape)}; take the runs of one setting.")
    values = values.detach().cpu().double()
    return mean(values, 0) if values.ndim == 3 else values.clone()

"""One heat map: its size, its colours, its numbers and its colour bar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from torch import Tensor

from cl_func import checks
from cl_func.plots import canvas, inks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Notes = Mapping[tuple[int, ...], str]  # (row, column) -> the text below the number of a cell


SIGNED = {"forgetting": "PuOr_r", "backward_transfer": "PuOr"}


def scale(metric: str) -> tuple[str, tuple[float, float]]:
    """The colour map and the limits (low, high) of a metric by its name: those of accuracies, unless the metric is signed.

    What stands in brackets behind the name, as in "forgetting (valid)", changes nothing.
    """
    name = without_evaluation(checks.text("metric", metric))
    return (SIGNED[name], (-1.0, 1.0)) if name in SIGNED else ("viridis", (0.0, 1.0))


def without_evaluation(metric: str) -> str:
    """A metric without the evaluation that stands in brackets behind it: "forgetting" of "forgetting (valid)"."""
    return metric.partition(" (")[0]


def is_signed(metric: str) -> bool:
    """Whether the values of a metric lie on both sides of 0."""
    return without_evaluation(metric) in SIGNED


def scale_of(values: Tensor, metric: str, higher_is_better: bool | None) -> tuple[str, tuple[float, float]]:
    """The same for what is not made of accuracies, if higher_is_better is not None: limits by the values, bright where good."""
    cmap, limits = scale(metric)
    if higher_is_better is None:
        return cmap, limits
    known = values[values.isfinite()].tolist() or [0.0]
    if is_signed(metric):
        most = max(map(abs, known)) or 1.0
        return cmap, (-most, most)
    low, high = min(known), max(known)
    return ("viridis" if higher_is_better else "viridis_r"), (low, high) if low < high else (low - 0.5, low + 0.5)


def form(higher_is_better: bool | None) -> str:
    """How numbers are written in cells: accuracies with two decimals, others with two digits."""
    return "z.2f" if higher_is_better is None else ".2g"


def _text_size(notes: Notes, form: str) -> tuple[int, int]:
    """The characters and lines that a cell needs: those of a number, and below it the lines of the longest note."""
    lines = [note.split("\n") for note in notes.values() if note]
    return max([4 if form == "z.2f" else 7, *(len(line) for note in lines for line in note)]), 1 + max(map(len, lines), default=0)


def size(values: Tensor, notes: Notes, form: str = "z.2f", names: Sequence[str] | None = None) -> tuple[float, float]:
    """Width and height in inches of a figure whose cells have room for a number and its note, beside the names of the rows."""
    (time, n), (characters, lines) = values.shape, _text_size(notes, form)
    side = max(0.45, 0.09 * characters, 0.16 * lines)
    beside = min(0.07 * max(map(len, names or [""])), 3)
    return min(max(side * n, 1.6), 9) + 1.6 + beside, min(max(side * time, 1.6), 9) + 0.8


def draw(
    ax: Axes,
    values: Tensor,
    cmap: str,
    limits: tuple[float, float],
    title: str | None,
    notes: Notes | None = None,
    form: str = "z.2f",
) -> AxesImage:
    """Draw one heat map; rows and columns are numbered from 1.

    notes: shown below the numbers. If the cells are too small for both they are left out, or else the numbers, too.
    """
    from matplotlib.ticker import FixedLocator, MaxNLocator

    notes = {} if notes is None else notes
    time, n = values.shape
    image = ax.imshow(
        values.numpy(),
        cmap=cmap,
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
        aspect="equal" if 1 / 3 <= time / n <= 3 else "auto",
        extent=(0.5, n + 0.5, time + 0.5, 0.5),
    )
    for axis, count in ((ax.xaxis, n), (ax.yaxis, time)):
        axis.set_major_locator(FixedLocator(range(1, count + 1)) if count <= 20 else MaxNLocator(integer=True))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    points = [72 * inches for inches in canvas.inches(ax)]
    canvas.entitle(ax, title)

    def fontsize(notes: Notes) -> float:
        characters, lines = _text_size(notes, form)
        return min(9, points[0] / n / characters / 0.7, points[1] / time / lines / 1.3)

    if fontsize(notes) < 5:
        notes = {}
    if fontsize(notes) >= 5:
        for i, row in enumerate(values.tolist()):
            for j, value in enumerate(row):
                known = not math.isnan(value)
                text = "\n".join([format(value, form)] * known + [note for note in [notes.get((i, j))] if note])
                ink = inks.on(image.cmap(image.norm(value))) if known else "black"
                if text:
                    ax.text(j + 1, i + 1, text, ha="center", va="center", color=ink, fontsize=fontsize(notes))
    return image


def ticks(ax: Axes, rows: Sequence[str] | None, columns: Sequence[str] | None) -> None:
    """Name the rows and the columns of a heat map, of more than 20 only some; None where their numbers are to stay."""
    for axis, labels in ((ax.yaxis, rows), (ax.xaxis, columns)):
        if labels is not None:
            step = -(-len(labels) // 20)
            upright = axis is ax.xaxis and max(map(len, labels)) > 5
            axis.set_ticks(range(1, len(labels) + 1, step), list(labels[::step]), rotation=90 if upright else 0)


def color_bar(image: AxesImage, ax: Axes | Sequence[Axes], label: str) -> None:
    """A colour bar, of the same width in every figure, to the right of the axes, one or several."""
    figure = _figure(image)
    inches = figure.dpi_scale_trans.inverted().transform(figure.bbox.size)
    figure.colorbar(image, ax=ax, label=label, aspect=inches[1] / 0.15, pad=0.15 / inches[0])


def _figure(image: AxesImage) -> Figure:
    return cast("Figure", image.figure)

"""One heat map: how large it is, its colours, its numbers and its bar; what `plots` builds its figures from."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cl_func import checks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage


def scale(metric: str) -> tuple[str, tuple[float, float]]:
    """The colour map and the least and the largest value of a metric by name; of accuracies unless it is one that has a sign."""
    checks.text("metric", metric)
    return {"forgetting": ("PuOr_r", (-1.0, 1.0)), "backward_transfer": ("PuOr", (-1.0, 1.0))}.get(metric, ("viridis", (0.0, 1.0)))


def _room(notes: Mapping[Any, str]) -> tuple[int, int]:
    """How many characters and lines the fullest cell has: a number of four, and below it the lines of its note."""
    lines = [note.split("\n") for note in notes.values() if note]
    return max([4, *(len(line) for note in lines for line in note)]), 1 + max(map(len, lines), default=0)


def size(values: Tensor, notes: Mapping[Any, str]) -> tuple[float, float]:
    """Width and height in inches of a figure whose cells have room for a number and its note."""
    (time, n), (wide, high) = values.shape, _room(notes)
    side = max(0.45, 0.09 * wide, 0.16 * high)
    return min(max(side * n, 1.6), 9) + 1.6, min(max(side * time, 1.6), 9) + 0.8


def draw(
    ax: Axes, values: Tensor, cmap: str, limits: tuple[float, float], title: str | None, notes: Mapping[Any, str] | None = None
) -> Any:
    """Draw one heat map; rows and columns are numbered from 1.

    notes: (row, column) -> what stands below a number; where cells are too small for that they are left out, or all numbers.
    """
    from matplotlib.ticker import FixedLocator, MaxNLocator

    notes = {} if notes is None else notes
    time, n = values.shape
    image: Any = ax.imshow(
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
    points = ax.get_window_extent().transformed(image.figure.dpi_scale_trans.inverted()).size * 72
    if title:
        lines = [textwrap.fill(line, max(12, int(points[0] / 6.5))) for line in title.split("\n")]
        ax.set_title("\n".join(lines), fontsize="medium")

    def fontsize(notes: Mapping[Any, str]) -> float:
        wide, high = _room(notes)
        return min(9, points[0] / n / wide / 0.7, points[1] / time / high / 1.3)

    if fontsize(notes) < 5:
        notes = {}
    if fontsize(notes) >= 5:
        for i, row in enumerate(values.tolist()):
            for j, value in enumerate(row):
                known = not math.isnan(value)
                text = "\n".join([f"{value:z.2f}"] * known + [note for note in [notes.get((i, j))] if note])
                ink = _ink(image.cmap(image.norm(value))) if known else "black"
                if text:
                    ax.text(j + 1, i + 1, text, ha="center", va="center", color=ink, fontsize=fontsize(notes))
    return image


def color_bar(image: AxesImage, ax: Any, label: str) -> None:
    """One bar, of the same width in every figure, right of the axes."""
    figure: Any = image.figure
    inches = figure.dpi_scale_trans.inverted().transform(figure.bbox.size)
    figure.colorbar(image, ax=ax, label=label, aspect=inches[1] / 0.15, pad=0.15 / inches[0])


def _ink(rgba: tuple[float, float, float, float]) -> str:
    """Black or white, whichever has the higher contrast on a colour (relative luminance of WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgba[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if luminance > 0.179 else "white"

"""What is drawn on: axes of one's own or those given, several of them side by side, their titles and scales."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from cl_func import checks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cl_func.plots.picture import Picture

Layout = Literal["constrained", "compressed"]
Limits = tuple[float | None, float | None]


def axes(ax: Axes | None, width: float, height: float, layout: Layout = "constrained") -> Picture:
    """The axes to draw on: `ax`, or where it is None the only ones of a new figure of that size in inches."""
    if ax is None:
        return cast("Picture", new(width, height, layout).add_subplot(axes_class=_picture()))
    return cast("Picture", given(ax))


def given(ax: Any) -> Axes:
    """Check that a value is Axes of matplotlib; TypeError otherwise."""
    checks.function("ax", getattr(ax, "imshow", None), "None or Axes of matplotlib")
    return ax


def new(width: float, height: float, layout: Layout) -> Figure:
    """A figure that is not made by pyplot, which may open a window and keeps its figures alive."""
    return checks.optional("matplotlib.figure", "cl_func.plots", "plots").Figure(figsize=(width, height), layout=layout, dpi=150)


def _picture() -> type[Picture]:
    from cl_func.plots.picture import Picture

    return Picture


def panels(
    ax: Axes | None,
    names: Sequence[str],
    columns: int,
    size: tuple[float, float],
    layout: Layout,
    share: bool = False,
    beside: float = 0.0,
) -> tuple[Picture, list[Axes]]:
    """An empty frame and within it axes for each name, filled row by row; on `ax`, or else in a figure of that size in inches.

    share: whether all have the y axis of the first. beside: the inches that are needed at their right where no layout makes room.
    Raises ValueError for `ax` that have no place in a grid.
    """
    rows = math.ceil(len(names) / columns)
    if ax is None:
        figure: Any = new(*size, layout)
        figure.get_layout_engine().set(h_pad=0.08)  # inches, so that titles stand off from what is above them
        grid = figure.add_gridspec(rows, columns)
        frame = cast("Picture", figure.add_subplot(grid[:, :], axes_class=_picture()))
    else:
        frame = cast("Picture", given(ax))
        place = frame.get_subplotspec()
        if place is None:
            raise ValueError("ax: several panels need axes that have a place in a grid, such as those of figure.subplots().")
        if has_layout(frame):  # a grid within a grid would not be laid out beside the title and the legend of the frame
            figure = cast("Any", frame.figure).add_subfigure(place)
            grid = figure.add_gridspec(rows, columns)
        else:
            figure, right, above = frame.figure, left_of(frame, beside), min(0.3 / inches(frame)[1], 0.3)
            ratios = {"width_ratios": (right, 1 - right + 1e-9), "height_ratios": (above, 1 - above)}
            grid = place.subgridspec(2, 2, wspace=0, hspace=0, **ratios)[1, 0].subgridspec(rows, columns)
    frame.set_axis_off()
    found: list[Axes] = []
    for i in range(len(names)):
        shared = found[0] if share and found else None
        found.append(figure.add_subplot(grid[divmod(i, columns)], sharey=shared))
    if ax is None:
        frame.panels = dict(zip(names, found, strict=True))
    return frame, found


def left_of(frame: Axes, beside: float) -> float:
    """The part of the width of a frame that is left of so many inches, at least 0.4."""
    return max(1 - beside / inches(frame)[0], 0.4)


def entitle(ax: Axes, title: str | None, framed: bool = False) -> None:
    """Set the title, in lines that are no longer than the axes are wide.

    framed: of axes that are a frame around panels: above the titles of these.
    """
    if not title:
        return
    points = inches(ax)[0] * 72
    text = "\n".join(textwrap.fill(line, max(12, int(points / 6.5))) for line in title.split("\n"))
    if framed and _is_picture(ax):
        cast("Figure", ax.figure).suptitle(text, fontsize="medium")
    else:
        ax.set_title(text, fontsize="medium")


def _is_picture(ax: Axes) -> bool:
    return isinstance(ax, _picture())


def whole_numbers(ax: Axes, most: int = 10) -> None:
    """Have the ticks of the horizontal axis at whole numbers, about as many as `most`."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(most, integer=True, min_n_ticks=1))  # by default two, which a single time has not


def inches(ax: Axes) -> tuple[float, float]:
    """The width and height of axes."""
    width, height = ax.get_window_extent().transformed(cast("Figure", ax.figure).dpi_scale_trans.inverted()).size
    return float(width), float(height)


def has_layout(ax: Axes) -> bool:
    """Whether the figure makes room for what is beside axes when it is drawn."""
    from matplotlib.layout_engine import PlaceHolderLayoutEngine

    engine = ax.figure.figure.get_layout_engine()
    return engine is not None and not isinstance(engine, PlaceHolderLayoutEngine)


def are_texts(values: Any) -> bool:
    """Whether a value is a list or a tuple of strings."""
    return isinstance(values, (list, tuple)) and all(isinstance(value, str) for value in values)


def check_named(name: str, values: Any, example: str, missing: Any) -> None:
    """Check a mapping from names to what is to be drawn, and the names of what is missing; TypeError or ValueError otherwise."""
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise checks.type_error(name, f"a mapping from names, such as {example}", values)
    if not are_texts(missing):
        raise checks.type_error("missing", "a list of names", missing)
    if not values and not missing:
        raise ValueError(f"{name}: nothing to draw; give at least one, such as {example}.")
    if any(key in values for key in missing):
        raise ValueError(f"missing: {[key for key in missing if key in values]} are in {name} too.")


def check_texts(**texts: Any) -> None:
    """Check that each is None or a string; TypeError naming the first that is not."""
    for name, text in texts.items():
        if text is not None:
            checks.text(name, text)


def check_limits(name: str, value: Any) -> Limits | None:
    """Check that a value is None or two ends of a scale, each a number or None; TypeError or ValueError otherwise."""
    if value is None:
        return None
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise checks.type_error(name, "None or two ends such as (0, 1) or (None, 1)", value)
    low, high = (None if end is None else checks.number(name, end) for end in value)
    if low is not None and high is not None and not low < high:
        raise ValueError(f"{name}: expected the lower end first, got {tuple(value)}.")
    return low, high


def limits(least: float, higher_is_better: bool | None) -> Limits:
    """The ends of the scale of values of which `least` is the least: [0, 1] for accuracies, from 0 for errors, else free."""
    if higher_is_better is None:
        return 0.0, 1.0
    return (0.0 if higher_is_better is False and least >= 0 else None), None

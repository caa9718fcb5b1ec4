"""Lines with names: their looks, how much they spread, and where their names stand.

Up to six lines have a legend, beside the axes where the figure makes room for it, and else where it covers least of them; more
have their names at their ends. Up to six lines have a band, or a bar if they are single points; more have a bar at their ends,
since bands that overlap are a mash.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from cl_func import checks, metrics
from cl_func.plots import canvas, inks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
FEW = 6  # lines that have a legend and bands
Spread = Literal["band", "end", "none"]


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line: its x, its y, and the half-width of the confidence interval at each, None for a single run."""

    x: Sequence[float]
    y: list[float]
    half: list[float] | None = None


def mean_curve(x: Sequence[float], values: Tensor, confidence: float) -> Curve:
    """The mean over the seeds of values [S, time], or [time], which is one run."""
    values = values.detach().cpu().double()
    mean, half = metrics.mean_ci(values if values.ndim == 2 else values[None], confidence)
    return Curve(x, mean.tolist(), half.tolist() if values.ndim == 2 and len(values) > 1 else None)


def check_options(confidence: Any, title: Any, xlabel: Any, ylabel: Any, direct: Any, spread: Any) -> None:
    """Check the options that all curves have; TypeError or ValueError otherwise."""
    checks.number("confidence", confidence, 0, 1)
    checks.text("xlabel", xlabel)
    checks.text("ylabel", ylabel)
    canvas.check_texts(title=title)
    checks.choice("direct", direct, True, False, None)
    checks.choice("spread", spread, "band", "end", "none", None)


def size(names: Sequence[str], direct: bool | None) -> tuple[float, float]:
    """Width and height in inches of a figure with room for the names of the lines beside them."""
    width = 4.6 + 0.08 * max(map(len, names), default=0)
    return max(6.0, width), min(max(3.5, 0.8 + 0.17 * len(names)), 12.0) if _is_direct(direct, len(names)) else 3.5


def _is_direct(direct: bool | None, n: int) -> bool:
    return n > FEW if direct is None else direct


def look(i: int) -> tuple[str, str, str]:
    """The colour, the marker and the dashes of line i."""
    return PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)], DASHES[i // len(PALETTE) % len(DASHES)]


def draw(
    ax: Axes,
    curves: Mapping[str, Curve],
    *,
    xlim: tuple[float, float],
    ylim: canvas.Limits,
    missing: Sequence[str] = (),
    direct: bool | None = None,
    spread: Spread | None = None,
    best_first: bool | None = True,
    colors: Sequence[str] | None = None,
    named: bool = True,
) -> list[Line2D]:
    """Draw a line for each name, with its name; the lines are returned.

    xlim, ylim: the ends of the scales. missing: names without a line, which come last.
    best_first: whether a legend begins with the line that ends highest, or lowest; None for the order of the names. colors: of each
    line; all are then without dashes. named: whether the names are drawn.
    """
    n = len(curves) + len(missing)
    spread = ("band" if n <= FEW else "end") if spread is None else spread
    lines: list[Line2D] = []
    longest = max((len(curve.x) for curve in curves.values()), default=0)
    for i, (name, curve) in enumerate(curves.items()):
        color, marker, dashes = look(i) if colors is None else (colors[i], "o", "-")
        (line,) = ax.plot(curve.x, curve.y, color=color, linestyle=dashes, linewidth=1.8, markersize=4.5, label=name)
        line.set(marker=marker if longest <= 20 or len(curve.x) == 1 else "none")
        line.set(clip_on=False, zorder=3)  # a marker at accuracy 1 lies on the frame, which would cut it in half
        if spread == "band" and curve.half is not None and len(curve.x) > 1:
            low, high = ([y + sign * half for y, half in zip(curve.y, curve.half, strict=True)] for sign in (-1, 1))
            ax.fill_between(curve.x, low, high, color=color, alpha=0.15, linewidth=0)
        lines.append(line)
    found = [str(line.get_color()) for line in lines]
    if spread == "end":
        _bars(ax, list(curves.values()), found)
    if spread == "band":  # that of a single point has no width
        points = [(curve, color) for curve, color in zip(curves.values(), found, strict=True) if len(curve.x) == 1]
        for i, (curve, color) in enumerate(points):
            _bar(ax, curve, color, 4.0 * i - 2.0 * (len(points) - 1))
    ax.set(xlim=xlim, ylim=ylim)
    ax.grid(axis="y", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if named and n:
        if _is_direct(direct, n):
            _label_ends(ax, curves, found, missing, 16.0 if spread == "end" else 0.0)
        else:
            legend(ax, curves, lines, missing, best_first)
    return lines


def _bars(ax: Axes, curves: Sequence[Curve], colors: Sequence[str]) -> None:
    """A bar of the confidence interval at the end of each line, side by side where they would be at the same height."""
    order = sorted(range(len(curves)), key=lambda i: curves[i].y[-1])
    for place, i in enumerate(order):
        _bar(ax, curves[i], colors[i], 5 + 4.0 * (place % 4))


def _bar(ax: Axes, curve: Curve, color: str, aside: float) -> None:
    """A bar of the confidence interval at the end of a line, some points to its right; none for a single run."""
    from matplotlib.transforms import Bbox, ScaledTranslation, TransformedBbox

    x, y, half = curve.x, curve.y, curve.half
    if half is not None:
        figure: Any = ax.figure
        bar = ax.vlines(x[-1], y[-1] - half[-1], y[-1] + half[-1], colors=color, linewidth=1.2)
        bar.set(transform=ax.transData + ScaledTranslation(aside / 72, 0, figure.dpi_scale_trans), in_layout=False)
        bar.set_clip_box(TransformedBbox(Bbox([[-1, 0], [2, 1]]), ax.transAxes))  # cut where the scale ends, but not beside it


def legend(
    ax: Axes,
    curves: Mapping[str, Curve],
    lines: Sequence[Line2D],
    missing: Sequence[str],
    best_first: bool | None,
    left: float | None = None,
) -> None:
    """The names of lines in a legend, beside the axes where the figure makes room.

    best_first: as in `draw`. left: where it begins, in parts of the width of the axes, if room was left within them.
    """
    last = {line: curve.y[-1] for line, curve in zip(lines, curves.values(), strict=True)}
    ordered = list(lines) if best_first is None else sorted(lines, key=last.__getitem__, reverse=best_first)
    names = [str(line.get_label()) for line in ordered] + list(missing)
    ordered += [ax.plot([], [], linestyle="none")[0] for _ in missing]
    where: dict[str, Any] = {"loc": "best", "framealpha": 0.7, "edgecolor": "none"}
    if left is not None:
        where = {"loc": "upper left", "bbox_to_anchor": (left + 0.02, 1.0), "frameon": False, "fontsize": "small"}
    elif canvas.has_layout(ax):
        where = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.02), "borderaxespad": 0, "frameon": False}
    box = ax.legend(ordered, [str(i) for i in range(len(ordered))], **where)
    # The names are set afterwards, since matplotlib before 3.10 leaves names that start with "_" out of a legend.
    for text, name in zip(box.get_texts(), names, strict=True):
        text.set_text(name)


def _label_ends(ax: Axes, curves: Mapping[str, Curve], colors: Sequence[str], missing: Sequence[str], offset: float) -> None:
    from cl_func.plots.end_labels import EndLabels

    ends = [(curve.x[-1], curve.y[-1]) for curve in curves.values()] + [None] * len(missing)
    written = [inks.on_white(color) for color in colors] + ["0.4"] * len(missing)
    inside = not canvas.has_layout(ax)
    labels = EndLabels(ends, [*curves, *missing], written, 9.0, inside, offset)
    ax.add_artist(labels)
    if inside:  # nothing will make room beside the axes: their scale goes on to the right, below the names
        room = labels.width() / ax.bbox.width
        if room > 0.5:
            labels.size *= 0.5 / room
            room = labels.width() / ax.bbox.width
        low, high = ax.get_xlim()
        ax.set_xticks([tick for tick in ax.get_xticks() if low <= tick <= high])
        ax.set_xlim(low, low + (high - low) / max(1 - room, 0.2))
        ax.spines["bottom"].set_bounds(low, high)

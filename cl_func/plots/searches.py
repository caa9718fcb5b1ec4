"""What a search over hyperparameters found, such as that of a random grid: scatter, and parallel coordinates; see `cl_func.plots`.

    cl.plots.hyperparameter_scatter({"opt.lr": [0.01, 0.1], "alpha": [0.3, 0.1]}, accuracies, "average_accuracy")

Parallel coordinates: Inselberg, "The plane with parallel coordinates", The Visual Computer 1985.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cl_func import checks, metrics
from cl_func.plots import canvas, heat
from cl_func.plots.canvas import Limits
from cl_func.plots.lines import PALETTE
from cl_func.tree import describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cl_func.plots.picture import Picture

ROOM = 0.19  # the least distance of labels on a panel's scale, in parts of the scale
WIDE = 10.0  # the ratio of the largest to the smallest value from which on a scale may be logarithmic


@dataclasses.dataclass(frozen=True)
class Scale:
    """The scale of one hyperparameter: its values as numbers, and for categories their names."""

    x: list[float]
    log: bool
    names: list[str]


def hyperparameter_scatter(
    points: Mapping[str, Sequence[Any]],
    values: Tensor,
    metric: str,
    *,
    log: Sequence[str] | None = None,
    confidence: float = 0.95,
    ax: Axes | None = None,
    title: str | None = None,
    ylabel: str | None = None,
    ylim: Limits | None = None,
    higher_is_better: bool | None = None,
    largest: bool | None = None,
    mark_best: bool = True,
) -> Picture:
    """A metric against each hyperparameter, one panel for each: a dot with its confidence interval for each point.

    points: path -> the value at each of n points; texts and other values that are no numbers are categories.
    values: floating [n], or [n, S], of which the mean over the seeds is drawn; NaN for runs that have no number. A point without
        any is a cross at the bottom, and the best is orange.
    metric: its name, which determines the scale, as does `higher_is_better`, as in `hyperparameter_grid`.
    log: the paths whose scale is logarithmic; by default those whose values are above 0, span a factor of 10 and are no less
        even on it than on a linear one.
    ax: Axes that have a place in a grid, which the panels then share; the frame around them is returned.
    ylabel: by default the metric.
    largest: whether the largest number is the best; by default it is, but for "forgetting" and where `higher_is_better` is False.
    mark_best: whether the best is orange, which says nothing where it is not known which way a metric is better.
    """
    scales, mean, half = _check(points, values, metric, log, confidence, title, higher_is_better, largest)
    checks.flag("mark_best", mark_best)
    canvas.check_texts(ylabel=ylabel)
    ends = canvas.check_limits("ylim", ylim)
    columns = math.ceil(len(scales) / math.ceil(len(scales) / 4))
    rows = math.ceil(len(scales) / columns)
    frame, panels = canvas.panels(ax, list(scales), columns, (1.2 + 2.3 * columns, 0.5 + 2.3 * rows), "constrained", share=True)
    canvas.entitle(frame, title, framed=True)
    known = ~mean.isnan()
    best = _best(mean, _larger_is_better(metric, higher_is_better, largest)) if mark_best else -1
    for i, (panel, (name, scale)) in enumerate(zip(panels, scales.items(), strict=True)):
        x = torch.tensor(scale.x, dtype=torch.float64)
        _set_scale(panel, scale)
        rest = known & (torch.arange(len(x)) != best)
        for which, color, size in ((rest, PALETTE[0], 4.5), (torch.arange(len(x)) == best, PALETTE[1], 7.0)):
            panel.errorbar(
                x[which], mean[which], yerr=half[which].nan_to_num(0.0), fmt="o", color=color, markersize=size, elinewidth=0.8
            )
        lost = x[~known].tolist()
        across = panel.get_xaxis_transform()  # the height in parts of the panel's
        if lost:  # a line without points would stand in the corner of the figure, as the layout sees it
            panel.plot(lost, [0.03] * len(lost), "x", color="0.4", markersize=5, transform=across, clip_on=False)
        panel.set_xlabel(name)
        panel.set_ylabel((metric.replace("_", " ") if ylabel is None else ylabel) if i % columns == 0 else "")
        panel.tick_params(labelleft=i % columns == 0)
        panel.grid(axis="y", color="0.9", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylim(*(_limits(mean, metric, higher_is_better) if ends is None else ends))
    return frame


def parallel_coordinates(
    points: Mapping[str, Sequence[Any]],
    values: Tensor,
    metric: str,
    *,
    log: Sequence[str] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    higher_is_better: bool | None = None,
    largest: bool | None = None,
) -> Picture:
    """All hyperparameters side by side, with a line for each point, coloured by a metric; better ones lie above.

    Points without a number are dotted and grey. The arguments are those of `hyperparameter_scatter`; ax may be any Axes.
    """
    scales, mean, _ = _check(points, values, metric, log, 0.95, title, higher_is_better, largest)
    found = canvas.axes(ax, 2.2 + 1.5 * len(scales), 3.5)
    canvas.entitle(found, title)
    up = _larger_is_better(metric, higher_is_better, largest)
    # Signed values have the scale of others here: lines in white, which stands for 0 in heat maps, could not be seen.
    _, limits = heat.scale_of(mean, metric, higher_is_better)
    known = mean[~mean.isnan()].tolist() if heat.is_signed(metric) else []
    low, high = (min(known), max(known)) if len({*known}) > 1 else limits
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    shades = ScalarMappable(Normalize(low, high), colormaps["viridis" if up else "viridis_r"])
    heights = torch.stack([_heights(scale) for scale in scales.values()])  # [paths, n]
    goodness = (mean if up else -mean).nan_to_num(-math.inf).tolist()
    order = sorted(range(len(mean)), key=goodness.__getitem__)
    for place, i in enumerate(order):
        look: dict[str, Any] = {"color": "0.6", "linestyle": ":", "linewidth": 1.2}
        if not math.isnan(mean[i]):
            look = {"color": shades.to_rgba(mean[i].numpy()), "linewidth": 1.6}
        found.plot(range(len(scales)), heights[:, i].tolist(), zorder=2 + place / len(order), clip_on=False, **look)
    for j, scale in enumerate(scales.values()):
        found.vlines(j, 0, 1, color="0.2", linewidth=0.8, zorder=3.5)
        for height, text in _ticks(scale):
            found.annotate(
                text, (j, height), (-3, 0), textcoords="offset points", ha="right", va="center", fontsize=7, zorder=4,
                bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
            )  # fmt: skip
    found.set(xlim=(-0.05, len(scales) - 0.95), ylim=(-0.03, 1.05), yticks=[])
    found.set_xticks(range(len(scales)), list(scales))
    found.tick_params(axis="x", length=0, pad=6)
    found.spines[:].set_visible(False)
    found.figure.colorbar(shades, ax=found, label=metric.replace("_", " "), aspect=25)
    return found


def _check(
    points: Any, values: Any, metric: Any, log: Any, confidence: Any, title: Any, higher_is_better: Any, largest: Any
) -> tuple[dict[str, Scale], Tensor, Tensor]:
    """The scales of the hyperparameters, and the mean and the half-width at each point; TypeError or ValueError for other input."""
    checks.choice("higher_is_better", higher_is_better, True, False, None)
    checks.choice("largest", largest, True, False, None)
    checks.number("confidence", confidence, 0, 1)
    _, (low, high) = heat.scale(metric)
    canvas.check_texts(title=title)
    example = "{'opt.lr': [0.01, 0.1]}"
    if not isinstance(points, Mapping) or not points or not all(isinstance(name, str) for name in points):
        raise checks.type_error("points", f"a mapping from paths to values, such as {example}", points)
    if not isinstance(values, Tensor) or not values.is_floating_point() or values.is_meta or values.ndim not in (1, 2):
        raise ValueError(f"values: expected a floating tensor [points] or [points, seeds], got {describe(values)}.")
    for name, column in points.items():
        if not isinstance(column, (list, tuple)) or len(column) != len(values) or not column:
            raise ValueError(
                f"points: expected {len(values)} values for {name!r}, as many as `values` has, got {describe(column)}."
            )
    if log is not None and (not canvas.are_texts(log) or any(name not in points for name in log)):
        raise ValueError(f"log: expected None or paths among {list(points)}, got {log!r}.")
    known = values[~values.isnan()]
    if higher_is_better is None and len(known) and not (low - 1e-6 <= known.min() and known.max() <= high + 1e-6):
        raise ValueError(f"values: {metric} lies in [{low:g}, {high:g}], got {known.min():.6g} to {known.max():.6g}.")
    if bool(known.isinf().any()):
        raise ValueError("values: some are infinite; give NaN for runs that have no number.")
    flat = values.detach().cpu().double()
    pairs = [_mean_ci(row[~row.isnan()], confidence) for row in (flat if flat.ndim == 2 else flat[:, None])]
    mean, half = (torch.tensor(part, dtype=torch.float64) for part in zip(*pairs, strict=True))
    return {name: _scale(name, column, log) for name, column in points.items()}, mean, half


def _mean_ci(numbers: Tensor, confidence: float) -> tuple[float, float]:
    if not len(numbers):
        return math.nan, math.nan
    mean, half = metrics.mean_ci(numbers, confidence)
    return float(mean), float(half)


def _scale(name: str, column: Sequence[Any], log: Sequence[str] | None) -> Scale:
    if not _are_numbers(column):
        names = list(dict.fromkeys(str(value) for value in column))
        return Scale([float(names.index(str(value))) for value in column], False, names)
    if log is not None and name in log and min(column) <= 0:
        raise ValueError(f"log: a logarithmic scale needs values above 0, got {min(column):g} of {name!r}.")
    return Scale([float(value) for value in column], is_even_on_log(column) if log is None else name in log, [])


def _are_numbers(column: Sequence[Any]) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) for value in column)


def is_even_on_log(column: Sequence[Any]) -> bool:
    """Whether values are numbers above 0 that span a factor of 10 and are spaced no less evenly on a logarithmic scale."""
    if not _are_numbers(column) or min(column) <= 0 or max(column) < WIDE * min(column):
        return False
    return _unevenness([math.log(one) for one in column]) <= _unevenness(column)


def _unevenness(x: Sequence[float]) -> float:
    """How far numbers are, on average, from being equally spaced between the least and the greatest."""
    least, most = min(x), max(x)
    return sum(abs((one - least) / (most - least) - i / (len(x) - 1)) for i, one in enumerate(sorted(x))) / len(x)


def _set_scale(ax: Axes, scale: Scale) -> None:
    """The scale of a panel, with ticks whose labels have room beside each other."""
    from matplotlib.ticker import NullFormatter

    if scale.names:
        ax.set_xticks(range(len(scale.names)), scale.names)
        ax.set_xlim(-0.5, len(scale.names) - 0.5)
        return
    if scale.log:
        ax.set_xscale("log")
        ax.xaxis.set_minor_formatter(NullFormatter())
    heights = sorted(set(_heights(scale).tolist()))
    if all(above - below >= ROOM for below, above in itertools.pairwise(heights)):
        values = sorted(set(scale.x))
        ax.set_xticks(values, [f"{value:.4g}" for value in values])
    elif scale.log and max(scale.x) < 1000 * min(scale.x):  # with one or two powers of 10 within
        values = [min(scale.x), math.sqrt(min(scale.x) * max(scale.x)), max(scale.x)]
        ax.set_xticks(values, [f"{value:.2g}" for value in values])


def _heights(scale: Scale) -> Tensor:
    """The place of each value between the least, 0, and the greatest, 1."""
    x = torch.tensor(scale.x, dtype=torch.float64)
    x = x.log() if scale.log else x
    return (x - x.min()) / (x.max() - x.min()) if x.max() > x.min() else torch.full_like(x, 0.5)


def _ticks(scale: Scale) -> list[tuple[float, str]]:
    """What is written at an axis: the names of categories, or the two ends and the middle."""
    least, most = min(scale.x), max(scale.x)
    if scale.names:
        return [(i / max(len(scale.names) - 1, 1) if len(scale.names) > 1 else 0.5, name) for i, name in enumerate(scale.names)]
    if least == most:
        return [(0.5, f"{least:g}")]
    middle = math.sqrt(least * most) if scale.log else (least + most) / 2
    return [(0.0, f"{least:.3g}"), (0.5, f"{middle:.3g}"), (1.0, f"{most:.3g}")]


def _larger_is_better(metric: str, higher_is_better: bool | None, largest: bool | None) -> bool:
    usual = heat.without_evaluation(metric) != "forgetting" and higher_is_better is not False
    return usual if largest is None else largest


def _best(mean: Tensor, larger: bool) -> int:
    """The place of the best mean; -1 if there is none."""
    if bool(mean.isnan().all()):
        return -1
    return int(mean.nan_to_num(-math.inf).argmax() if larger else mean.nan_to_num(math.inf).argmin())


def _limits(mean: Tensor, metric: str, higher_is_better: bool | None) -> Limits:
    """The ends of the scale of the metric: those of accuracies, or free."""
    if heat.is_signed(metric):
        return None, None
    return canvas.limits(float(mean.nan_to_num(0.0).min()), higher_is_better)

"""Curves of runs over time, a line for each setting; see `cl_func.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from cl_func.metrics.checking import check_accuracies
from cl_func.plots import canvas, lines
from cl_func.plots.canvas import Limits
from cl_func.plots.lines import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cl_func.plots.picture import Picture


def accuracy_timeline(
    curves: Mapping[str, Tensor],
    *,
    confidence: float = 0.95,
    ax: Axes | None = None,
    title: str | None = None,
    xlabel: str = "experiences trained on",
    ylabel: str = "average accuracy",
    ylim: Limits | None = None,
    missing: Sequence[str] = (),
    direct: bool | None = None,
    spread: Spread | None = None,
    higher_is_better: bool | None = None,
) -> Picture:
    """One line per name over time 1, 2, ...: the mean over the seeds, with its Student t confidence interval.

    curves: tensors [S, time], or [time] for one run (which has no interval), of values in [0, 1]:
        `{"ER": cl.metrics.average_accuracy(R)}`.
    ax: the Axes to draw on, and to return; by default those of a new figure.
    ylim: the ends of the scale, None for one that the values choose. By default [0, 1] for accuracies, and from 0 for errors.
    missing: names that come last, without a line, such as settings whose runs all diverged.
    direct: whether names stand at the ends of their lines, or in a legend, the best first. By default they do from 7 names on.
    spread: how the interval is drawn: a "band" along the line, a bar at its "end", or "none". By default a band for up to 6 names.
    higher_is_better: for values of another measure, as in `cl.metrics`: False for errors. The axis then has a scale of its own.
    """
    canvas.check_named("curves", curves, "{'ER': cl.metrics.average_accuracy(R)}", missing)
    lines.check_options(confidence, title, xlabel, ylabel, direct, spread)
    ends = canvas.check_limits("ylim", ylim)
    for name, values in curves.items():
        if check_accuracies(f"curves[{name!r}]", values, 1, higher_is_better).ndim > 2:
            raise ValueError(
                f"curves[{name!r}]: expected [seeds, time] or [time], got {list(values.shape)}; take the runs of one setting."
            )
    drawn = {name: lines.mean_curve(range(1, values.shape[-1] + 1), values, confidence) for name, values in curves.items()}
    longest = max((len(curve.x) for curve in drawn.values()), default=1)
    least = min((min(curve.y) for curve in drawn.values()), default=0.0)
    margin = 0.02 * (longest - 1) or 0.5
    found = canvas.axes(ax, *lines.size([*curves, *missing], direct))
    found.set(xlabel=xlabel, ylabel=ylabel)
    canvas.entitle(found, title)
    canvas.whole_numbers(found)
    lines.draw(
        found,
        drawn,
        xlim=(1 - margin, longest + margin),
        ylim=canvas.limits(least, higher_is_better) if ends is None else ends,
        missing=missing,
        direct=direct,
        spread=spread,
        best_first=higher_is_better is not False,
    )
    return found

"""Learning curves: a number of each step, such as the loss that `cl.trace` keeps; see `cl_func.plots`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_func import checks, metrics
from cl_func.plots import canvas, lines
from cl_func.plots.canvas import Limits
from cl_func.plots.lines import Curve, Spread
from cl_func.tree import describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cl_func.plots.picture import Picture


def learning_curve(
    curves: Tensor | Mapping[str, Tensor],
    *,
    window: int | None = None,
    ends: Tensor | Sequence[int] = (),
    confidence: float = 0.95,
    ax: Axes | None = None,
    title: str | None = None,
    xlabel: str = "step",
    ylabel: str = "loss",
    ylim: Limits | None = None,
    log: bool = False,
    missing: Sequence[str] = (),
    direct: bool | None = None,
    spread: Spread | None = None,
    higher_is_better: bool | None = False,
) -> Picture:
    """A number of each step, as a running mean, of which the mean over the seeds is drawn with its confidence interval.

    curves: one [steps], or [S, steps] of several seeds, as `cl.trace.read` and `runs.curve` give them, or a mapping from names to
        such. NaN is left out: a line ends where none of its runs goes on.
    window: how many steps the running mean is over, the last ones at each step (all there are at the beginning); by default a
        fiftieth of the longest curve. The label of the axis says it.
    ends: the steps at which experiences end, `history["losses"].count`, marked by thin lines.
    log: whether the scale is logarithmic, for values above 0.
    The others are those of `accuracy_timeline`; by default lower is better, and the scale begins at 0.
    """
    lines.check_options(confidence, title, xlabel, ylabel, direct, spread)
    checks.flag("log", log)
    checks.choice("higher_is_better", higher_is_better, True, False, None)
    limits = canvas.check_limits("ylim", ylim)
    given: Mapping[str, Tensor] = {"mean": curves} if isinstance(curves, Tensor) else curves
    canvas.check_named("curves", given, "{'ER': cl.trace.read(history['losses'])}", missing)
    for name, values in given.items():
        _check_curve("curves" if isinstance(curves, Tensor) else f"curves[{name!r}]", values, log)
    marks = _check_ends(ends)
    steps = max((values.shape[-1] for values in given.values()), default=1)
    window = max(steps // 50, 1) if window is None else checks.positive_int("window", window)
    drawn = {name: _curve(values, window, confidence) for name, values in given.items()}
    shown = [y for curve in drawn.values() for y in curve.y if not math.isnan(y)]
    found = canvas.axes(ax, *lines.size([*drawn, *missing], direct))
    found.set(xlabel=xlabel, ylabel=ylabel if window == 1 else f"{ylabel}, mean of {window} steps")
    canvas.entitle(found, title)
    if log:
        found.set_yscale("log")
    for step in marks:
        found.axvline(step, color="0.8", linewidth=0.7, zorder=0)
    if limits is None:
        limits = (None, None) if log else canvas.limits(min(shown, default=0.0), higher_is_better)
    lines.draw(
        found,
        drawn,
        xlim=(0.0, float(steps)),
        ylim=limits,
        missing=missing,
        direct=direct,
        spread=spread,
        best_first=higher_is_better is not False,
        named=not isinstance(curves, Tensor) or bool(missing),
    )
    return found


def running_mean(values: Tensor, window: int) -> Tensor:
    """The mean of the last `window` values at each step of values [..., steps], fewer at the beginning; NaN is left out."""
    known = ~values.isnan()
    sums = _of_last(torch.where(known, values, 0).double(), window)
    return torch.where(known, sums / _of_last(known.double(), window), math.nan)


def _of_last(values: Tensor, window: int) -> Tensor:
    """The sums over the last `window` entries at each place, without differences, in which a spike would drown what follows it.

    In blocks of the length of the window: the beginning of its block, and the rest of the block before (van Herk, "A fast algorithm
    for local minimum and maximum filters on rectangular and octagonal kernels", Pattern Recognition Letters 1992).
    """
    steps = values.shape[-1]
    blocks = F.pad(values, (window, -steps % window)).unflatten(-1, (-1, window))
    ends = blocks.flip(-1).cumsum(-1).flip(-1)
    rest = F.pad(ends[..., :-1, 1:], (0, 1))
    return (blocks[..., 1:, :].cumsum(-1) + rest).flatten(-2)[..., :steps]


def _curve(values: Tensor, window: int, confidence: float) -> Curve:
    """The mean over the seeds at each step, and its half-width, from the seeds that are there; cut where there are none."""
    values = values.detach().cpu().double()
    smooth = running_mean(values if values.ndim == 2 else values[None], window)
    counts = (~smooth.isnan()).sum(0)
    mean = torch.full(counts.shape, math.nan, dtype=torch.float64)
    half = mean.clone()
    ordered = smooth.sort(0).values  # NaN last
    for n in counts.unique().tolist():
        if n:
            mean[counts == n], half[counts == n] = metrics.mean_ci(ordered[:n, counts == n], confidence)
    stop = int(counts.nonzero().max()) + 1
    x = [step + 1.0 for step in range(stop)]
    return Curve(x, mean[:stop].tolist(), None if bool((counts < 2).all()) else half[:stop].tolist())


def _check_curve(name: str, values: Any, log: bool) -> None:
    if not isinstance(values, Tensor) or not values.is_floating_point() or values.is_meta or values.ndim not in (1, 2):
        raise ValueError(f"{name}: expected a floating tensor [steps] or [seeds, steps], got {describe(values)}.")
    if bool(values.isinf().any()) or not bool(values.isfinite().any()):
        raise ValueError(f"{name}: expected finite numbers, and NaN where there are none, got {describe(values)} without.")
    if log and bool((values <= 0).any()):
        raise ValueError(
            f"{name}: a logarithmic scale needs values above 0, got {values[values <= 0][0].item():g}; give log=False."
        )


def _check_ends(ends: Any) -> list[int]:
    if not isinstance(ends, (Tensor, list, tuple)) or (isinstance(ends, Tensor) and (ends.is_meta or ends.ndim != 1)):
        raise checks.type_error("ends", "the steps at which experiences end, such as history['losses'].count", ends)
    steps = ends.tolist() if isinstance(ends, Tensor) else list(ends)
    if any(isinstance(step, bool) or not isinstance(step, int) or step < 0 for step in steps):
        raise ValueError(f"ends: expected numbers of steps, integers of at least 0, got {steps}.")
    return steps

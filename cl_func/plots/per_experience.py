"""Forgetting curves: what becomes of each experience after it has been learned; see `cl_func.plots`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cl_func import checks
from cl_func.metrics.checking import check_accuracies, counts_seen
from cl_func.plots import canvas, lines
from cl_func.plots.canvas import Limits
from cl_func.plots.lines import Curve, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cl_func.plots.picture import Picture

MANY = 12  # experiences that have names; more have a colour bar


def forgetting_curves(
    R: Tensor | Mapping[str, Tensor],
    *,
    seen: Tensor | Sequence[int] | None = None,
    confidence: float = 0.95,
    ax: Axes | None = None,
    title: str | None = None,
    xlabel: str = "experiences trained on",
    ylabel: str = "accuracy",
    ylim: Limits | None = None,
    labels: Sequence[str] | None = None,
    missing: Sequence[str] = (),
    direct: bool | None = None,
    spread: Spread | None = None,
    higher_is_better: bool | None = None,
) -> Picture:
    """The accuracy on each test experience from the time at which training on it began: how it is learned, and forgotten.

    (As in Fig. 2 of Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017.)

    R: an accuracy matrix [time, T], or [S, time, T], of which the mean over the seeds is drawn, with a line for each experience,
        from dark to light, and in its order in a legend; or a mapping from names to such matrices of one T, with a panel for each
        experience and a line for each name.
    seen: as in `cl.metrics`, where there is not one time per experience. Experiences that it never reaches are not drawn.
    labels: the names of the experiences, T of them; by default they are numbered from 1.
    missing: of a mapping, names that come last in the legend, without a line.
    ax: Axes to draw on, which for a mapping must have a place in a grid.
    The others are those of `accuracy_timeline`; beside panels there is always a legend, and more than 6 names have no bands.
    """
    lines.check_options(confidence, title, xlabel, ylabel, direct, spread)
    ends = canvas.check_limits("ylim", ylim)
    if not isinstance(R, Tensor):
        canvas.check_named("R", R, "{'ER': R}", missing)
    elif not canvas.are_texts(missing) or missing:
        raise checks.type_error("missing", "no names where R is a single tensor", missing)
    given = {"": R} if isinstance(R, Tensor) else R
    found: list[dict[str, Curve]] = []  # of each experience, by name
    for name, values in given.items():
        at = "R" if isinstance(R, Tensor) else f"R[{name!r}]"
        for j, curve in enumerate(_of_experiences(at, values, seen, confidence, higher_is_better)):
            found += [{}] if j == len(found) else []
            found[j][name] = curve
        if len({len(curves) for curves in found}) > 1:
            raise ValueError(f"{at}: expected as many experiences as the others have, got {list(values.shape)}.")
    named = _experience_names(labels, next(iter(given.values())).shape[-1] if given else 1)
    every = [curve for curves in found for curve in curves.values()]
    last = max((curve.x[-1] for curve in every), default=1)
    margin = 0.02 * (last - 1) or 0.5
    least = min((min(curve.y) for curve in every), default=0.0)
    options: dict[str, Any] = {
        "xlim": (1 - margin, last + margin),
        "ylim": canvas.limits(least, higher_is_better) if ends is None else ends,
        "spread": spread,
        # Experiences come in their order, as their colours do; methods as in other pictures.
        "best_first": None if isinstance(R, Tensor) else higher_is_better is not False,
    }
    if isinstance(R, Tensor):
        shown = {name: curves[""] for name, curves in zip(named, found, strict=False)}
        bar = len(shown) > MANY and direct is None
        drawn = canvas.axes(ax, *lines.size([] if bar else named, direct))
        drawn.set(xlabel=xlabel, ylabel=ylabel)
        canvas.entitle(drawn, title)
        canvas.whole_numbers(drawn)
        _shaded(drawn, shown, direct, bar, options)
        return drawn
    return _panels(ax, dict(zip(named, found or [{}], strict=False)), missing, title, (xlabel, ylabel), options)


def _shaded(ax: Axes, curves: Mapping[str, Curve], direct: bool | None, bar: bool, options: dict[str, Any]) -> None:
    """Lines whose colours go from dark to light, with their names or with a colour bar."""
    from matplotlib import colormaps, colors
    from matplotlib.cm import ScalarMappable

    n = len(curves)
    shades = colors.ListedColormap(colormaps["viridis"]([(215 * i) // max(n - 1, 1) for i in range(n)]))
    if bar and options["spread"] is None:
        options["spread"] = "none"
    lines.draw(ax, curves, direct=direct, colors=[colors.to_hex(shades(i)) for i in range(n)], named=not bar, **options)
    if bar:
        scale = ScalarMappable(colors.Normalize(0.5, n + 0.5), shades)
        ax.figure.colorbar(scale, ax=ax, label="test experience", aspect=30)


def _panels(
    ax: Axes | None,
    found: Mapping[str, Mapping[str, Curve]],
    missing: Sequence[str],
    title: str | None,
    words: tuple[str, str],
    options: dict[str, Any],
) -> Picture:
    """A panel for each experience, with one legend for all."""
    rows = math.ceil(len(found) / 5)
    columns = math.ceil(len(found) / rows)
    names = [*next(iter(found.values())), *missing]
    if options["spread"] is None:
        options["spread"] = "band" if len(names) <= lines.FEW else "none"  # there is no room for bars at the ends
    beside = 0.75 + 0.07 * max(map(len, names))  # for a legend in small letters
    size = 2.6 + 1.5 * columns + 0.08 * max(map(len, names)), max(0.9 + 1.5 * rows, 0.6 + 0.22 * len(names))
    frame, panels = canvas.panels(ax, list(found), columns, size, "constrained", share=True, beside=beside)
    canvas.entitle(frame, title, framed=True)
    drawn = []
    for i, (panel, (name, curves)) in enumerate(zip(panels, found.items(), strict=True)):
        drawn = lines.draw(panel, curves, missing=missing, named=False, **options)
        canvas.whole_numbers(panel, 5)
        panel.set_title(name, fontsize=max(5.0, min(10.0, 72 * canvas.inches(panel)[0] / (0.62 * len(name)))))
        panel.set_xlabel(words[0] if i + columns >= len(found) and i % columns == (columns - 1) // 2 else "")
        panel.set_ylabel(words[1] if i % columns == 0 else "")
        panel.tick_params(labelleft=i % columns == 0, labelbottom=i + columns >= len(found))
    left = None if canvas.has_layout(frame) else canvas.left_of(frame, beside)
    lines.legend(frame, list(found.values())[-1], drawn, missing, options["best_first"], left)
    return frame


def _of_experiences(
    name: str, R: Any, seen: Tensor | Sequence[int] | None, confidence: float, higher_is_better: bool | None
) -> list[Curve]:
    """The curve of each experience that is seen, from the first time at which it is."""
    check_accuracies(name, R, 2, higher_is_better)
    if R.ndim > 3:
        raise ValueError(f"{name}: expected [time, T] or [seeds, time, T], got {list(R.shape)}; take the runs of one setting.")
    counts = counts_seen(R, seen, 1, higher_is_better)
    starts = [next(i for i, count in enumerate(counts) if count > j) for j in range(counts[-1])]
    times = range(1, len(counts) + 1)
    return [lines.mean_curve(times[start:], R[..., start:, j], confidence) for j, start in enumerate(starts)]


def _experience_names(labels: Any, n: int) -> list[str]:
    if labels is None:
        return [f"experience {j + 1}" for j in range(n)]
    if not canvas.are_texts(labels):
        raise checks.type_error("labels", "None or a list of names", labels)
    if len(labels) != n or len(set(labels)) < n:
        raise ValueError(f"labels: expected a name of its own for each of the {n} experiences, got {labels}.")
    return list(labels)

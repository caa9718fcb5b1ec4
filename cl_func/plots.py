"""Figures of runs: accuracy over time with confidence bands, accuracy matrices, forgetting matrices.

Every function returns a matplotlib `Figure` that no global state knows: show it in a notebook or write it with
`figure.savefig("name.pdf")`. Given `ax`, it draws there and returns that axes' figure, so that figures can be composed.
Colours are safe for colour-blind readers: Okabe & Ito's (2008) for lines, viridis (Smith & van der Walt 2015) for accuracies.

matplotlib is imported only when something is drawn: `pip install "cl_func[plots]"`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from cl_func import checks, metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")


def _figure(width: float, height: float, layout: Literal["constrained", "compressed"]) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('cl_func.plots draws with matplotlib, which is not installed: pip install "cl_func[plots]"') from error
    # Not pyplot's: nothing opens a window, and nothing is kept alive.
    return Figure(figsize=(width, height), layout=layout, dpi=150)


def _axes(ax: Axes | None, width: float, height: float, layout: Literal["constrained", "compressed"]) -> tuple[Any, Axes]:
    """The figure to return and the axes to draw on."""
    if ax is not None:
        checks.function("ax", getattr(ax, "imshow", None), "None or Axes of matplotlib")
        return ax.get_figure(root=True), ax
    figure = _figure(width, height, layout)
    return figure, figure.add_subplot()


def accuracy_timeline(
    curves: Mapping[str, Tensor],
    *,
    confidence: float = 0.95,
    ax: Axes | None = None,
    xlabel: str = "experiences trained on",
    ylabel: str = "average accuracy",
) -> Figure:
    """One line per name over time 1, 2, ...: the mean over the seeds in a band, its Student t confidence interval.

    curves: tensors [S, time], or [time] for one run (which has no band), of values in [0, 1]:
        `{"ER": cl.metrics.average_accuracy(R)}`. The legend lists them in the order in which the lines end, best first.
    """
    _named("curves", curves, "{'ER': cl.metrics.average_accuracy(R)}")
    checks.number("confidence", confidence, 0, 1)
    checks.text("xlabel", xlabel)
    checks.text("ylabel", ylabel)
    for name, values in curves.items():
        if metrics.checked(f"curves[{name!r}]", values, 1).ndim > 2:
            raise ValueError(
                f"curves[{name!r}]: expected [seeds, time] or [time], got {list(values.shape)}; take the runs of one setting."
            )
    figure, ax = _axes(ax, 6.0, 3.5, layout="constrained")
    from matplotlib.ticker import MaxNLocator

    longest = 1
    last: dict[Any, float] = {}
    for i, (name, values) in enumerate(curves.items()):
        values = values.detach().cpu().double()
        runs = values if values.ndim == 2 else values[None]
        mean, half = metrics.mean_ci(runs, confidence)
        time = range(1, len(mean) + 1)
        color = PALETTE[i % len(PALETTE)]
        marker = MARKERS[i % len(MARKERS)] if len(mean) <= 20 else None
        dashes = DASHES[i // len(PALETTE) % len(DASHES)]
        (line,) = ax.plot(
            time, mean.tolist(), color=color, marker=marker, linestyle=dashes, markersize=4.5, linewidth=1.8, label=name
        )
        line.set(clip_on=False, zorder=3)  # a marker at accuracy 1 sits on the frame and should be whole
        if len(runs) > 1:
            ax.fill_between(time, (mean - half).tolist(), (mean + half).tolist(), color=color, alpha=0.18, linewidth=0)
        longest, last[line] = max(longest, len(mean)), mean[-1].item()
    margin = 0.02 * (longest - 1) or 0.5
    ax.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 1), xlim=(1 - margin, longest + margin))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(
        handles=sorted(last, key=last.__getitem__, reverse=True),
        loc="upper left",
        bbox_to_anchor=(1.02, 1.02),
        borderaxespad=0,
        frameon=False,
    )
    return figure


def matrix(R: Tensor, *, title: str | None = None, ax: Axes | None = None) -> Figure:
    """An accuracy matrix as a heat map with its numbers; R [time, T], or [S, time, T] to draw the mean over the seeds."""
    values = _mean("R", R)
    _title(title)
    figure, ax = _axes(ax, *_size(values), layout="compressed")
    image = _heat(ax, values, "viridis", (0, 1), title)
    ax.set(xlabel="test experience", ylabel="after experience")
    _color_bar(image, ax, "accuracy")
    return figure


def matrices(matrices: Mapping[str, Tensor]) -> Figure:
    """Several accuracy matrices under their names, at most four in a row, with one colour bar; each as in `matrix`."""
    _named("matrices", matrices, "{'ER': R}")
    means = {name: _mean(f"matrices[{name!r}]", R) for name, R in matrices.items()}
    rows = math.ceil(len(means) / 4)
    columns = math.ceil(len(means) / rows)
    width, height = (max(sizes) for sizes in zip(*map(_size, means.values()), strict=True))
    figure = _figure(columns * (width - 1.1) + 1.1, rows * height, layout="compressed")
    grid = figure.subplots(rows, columns, squeeze=False)
    for i, (ax, (name, values)) in enumerate(zip(grid.flat, means.items(), strict=False)):
        image = _heat(ax, values, "viridis", (0, 1), name)
        ax.set_xlabel("test experience" if i + columns >= len(means) else "")  # where there is none below
        ax.set_ylabel("after experience" if i % columns == 0 else "")
    for ax in grid.flat[len(means) :]:
        ax.set_axis_off()
    _color_bar(image, grid, "accuracy")
    return figure


def forgetting_matrix(
    R: Tensor, *, seen: Tensor | Sequence[int] | None = None, title: str | None = None, ax: Axes | None = None
) -> Figure:
    """`cl.metrics.forgetting_matrix` of an accuracy matrix R as a heat map: orange is forgotten, purple is better than before.

    R is [time, T], or [S, time, T] to draw the mean over the seeds; `seen` is as in `cl.metrics`. Cells in which nothing can be
    forgotten yet stay empty.
    """
    values = _mean("R", R, metrics.forgetting_matrix(R, seen))
    _title(title)
    counts = range(1, len(values) + 1) if seen is None else [int(count) for count in seen]
    for i, count in enumerate(counts):
        values[i, count - 1 if i else 0 :] = math.nan
    figure, ax = _axes(ax, *_size(values), layout="compressed")
    image = _heat(ax, values, "PuOr_r", (-1, 1), title)
    ax.set(xlabel="test experience", ylabel="after experience")
    _color_bar(image, ax, "forgetting")
    return figure


def _named(name: str, values: Any, example: str) -> None:
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise checks.refuse(name, f"a mapping from names, such as {example}", values)
    if not values:
        raise ValueError(f"{name}: nothing to draw; give at least one, such as {example}.")


def _title(title: Any) -> None:
    if title is not None:
        checks.text("title", title)


def _mean(name: str, R: Tensor, values: Tensor | None = None) -> Tensor:
    """The matrix [time, T] to draw: R, or `values` made from it, its mean over the seeds if there are any."""
    metrics.checked(name, R, 2)
    if R.ndim > 3:
        raise ValueError(f"{name}: expected [time, T] or [seeds, time, T], got {list(R.shape)}; take the runs of one setting.")
    values = (R if values is None else values).detach().cpu().double()
    return values.mean(0) if values.ndim == 3 else values.clone()


def _size(values: Tensor) -> tuple[float, float]:
    """Width and height in inches of a figure whose cells have room for a number."""
    time, n = values.shape
    return min(max(0.45 * n, 1.6), 9) + 1.6, min(max(0.45 * time, 1.6), 9) + 0.8


def _heat(ax: Axes, values: Tensor, cmap: str, limits: tuple[float, float], title: str | None) -> Any:
    """Draw one heat map; rows and columns are numbered from 1, and numbers are left out where the cells are too small for them."""
    from matplotlib.ticker import FixedLocator, MaxNLocator

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
    if title:
        ax.set_title(title, fontsize="medium")
    points = ax.get_window_extent().transformed(image.figure.dpi_scale_trans.inverted()).size * 72
    size = min(9, points[0] / n / 2.8, points[1] / time / 1.3)
    if size >= 5:
        for i, row in enumerate(values.tolist(), start=1):
            for j, value in enumerate(row, start=1):
                if not math.isnan(value):
                    ink = _ink(image.cmap(image.norm(value)))
                    ax.text(j, i, f"{value:z.2f}", ha="center", va="center", color=ink, fontsize=size)
    return image


def _color_bar(image: AxesImage, ax: Any, label: str) -> None:
    """One bar, of the same width in every figure, right of the axes."""
    figure: Any = image.figure
    inches = figure.dpi_scale_trans.inverted().transform(figure.bbox.size)
    figure.colorbar(image, ax=ax, label=label, aspect=inches[1] / 0.15, pad=0.15 / inches[0])


def _ink(rgba: tuple[float, float, float, float]) -> str:
    """Black or white, whichever has the higher contrast on a colour (relative luminance of WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgba[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if luminance > 0.179 else "white"

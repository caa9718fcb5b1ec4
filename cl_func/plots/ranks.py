"""The critical-difference diagram: which methods differ in their average ranks over many settings; see `cl_func.plots`.

Demšar, "Statistical comparisons of classifiers over multiple data sets", JMLR 2006: each of N blocks, such as settings, ranks the k
methods, the best 1 and ties by their mean. Friedman's test asks whether the ranks differ at all; by Nemenyi's two methods differ
where their average ranks are at least CD = q sqrt(k (k + 1) / 6 N) apart, q the quantile of the studentized range over sqrt(2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cl_func import checks
from cl_func.metrics.ties import tied_blocks
from cl_func.plots import canvas
from cl_func.tree import describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cl_func.plots.picture import Picture


class Ranked(Protocol):
    """What draws its own diagram, such as Runs."""

    def plot_critical_difference(self, *arguments: Any, **options: Any) -> Picture: ...


def average_ranks(scores: np.ndarray, largest: bool = True) -> np.ndarray:
    """The average rank [k] of each method over the blocks, of scores [k, N]; 1 is best, and ties have their mean rank."""
    stats = checks.optional("scipy.stats", "cl_func.plots", "stats")
    ranks: np.ndarray = stats.rankdata(-scores if largest else scores, axis=0).mean(1)
    return ranks


def friedman(scores: np.ndarray) -> float:
    """The p of Friedman's test of scores [k, N]; 1 if no block tells any methods apart."""
    stats = checks.optional("scipy.stats", "cl_func.plots", "stats")
    return 1.0 if (scores == scores[:1]).all() else float(stats.friedmanchisquare(*scores).pvalue)


def critical(k: int, n: int, level: float = 0.05) -> float:
    """The critical difference CD of the average ranks of k methods over n blocks."""
    stats = checks.optional("scipy.stats", "cl_func.plots", "stats")
    return float(stats.studentized_range.ppf(1 - level, k, math.inf)) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))


def groups(ranks: Sequence[float], cd: float) -> list[tuple[float, float]]:
    """The largest groups of methods that do not differ, each by its lowest and its highest average rank."""
    ordered, found = sorted(ranks), list[tuple[float, float]]()
    for i, low in enumerate(ordered):
        j = max(j for j, rank in enumerate(ordered) if rank - low < cd)
        if j > i and (not found or ordered[j] > found[-1][1]):
            found.append((low, ordered[j]))
    return found


def critical_difference(
    scores: Mapping[str, Tensor] | Ranked,
    *,
    largest: bool = True,
    level: float = 0.05,
    title: str | None = None,
    ax: Axes | None = None,
) -> Picture:
    """Average ranks on an axis, the best left; thick lines join methods that do not differ by Nemenyi's test.

    scores: name -> floating [N], the numbers of at least three methods in the same N >= 2 blocks: settings, or settings and seeds;
        or Runs, whose `plot_critical_difference` has more options.
    largest: whether larger is better; False for errors. level: of the test, in (0, 1).
    title: below which N and Friedman's p stand; where that p is above the level, the ranks say nothing.

    Blocks of one setting with other seeds are not independent of each other: over these the diagram tells of this setting only.
    Needs scipy. Raises TypeError or ValueError for other scores, and for such that are not finite.
    """
    checks.flag("largest", largest)
    checks.number("level", level, 0, 1)
    canvas.check_texts(title=title)
    if not isinstance(scores, Mapping):
        own: Any = getattr(scores, "plot_critical_difference", None)
        draw = checks.function("scores", own, "a mapping from names to tensors, or Runs")
        picture: Picture = draw(largest=largest, level=level, title=title, ax=ax)
        return picture
    values = _check_scores(scores)
    k, n = values.shape
    ranks, p, cd = average_ranks(values, largest).tolist(), friedman(values), critical(k, n, level)
    order = sorted(range(k), key=ranks.__getitem__)
    texts = [f"{[*scores][i]} ({ranks[i]:.2f})" for i in order]
    left, bars = (k + 1) // 2, groups(ranks, cd)
    first = 0.55 + 0.25 * len(bars)  # where the names begin, below the bars
    rows = [*range(left), *reversed(range(k - left))]
    picture = canvas.axes(ax, 4.0 + 0.14 * max(map(len, texts)), 1.1 + 0.28 * (first + 0.6 * left))
    picture.set_axis_off()
    margin = 0.06 * (k - 1)
    picture.set(xlim=(1 - margin, k + margin), ylim=(-first - 0.6 * left, 1.9))
    line: dict[str, Any] = {"color": "black", "linewidth": 1.0, "clip_on": False}
    picture.plot([1, k], [0, 0], **line)
    for rank in range(1, k + 1):
        picture.plot([rank, rank], [0, 0.2], **line)
        picture.text(rank, 0.3, str(rank), ha="center", va="bottom", fontsize="small")
    for place, (i, text) in enumerate(zip(order, texts, strict=True)):
        y, edge, side = -first - 0.6 * rows[place], *((1 - margin, "right") if place < left else (k + margin, "left"))
        picture.plot([ranks[i], ranks[i], edge], [0, y, y], **line)
        picture.text(edge, y, f"{text} " if side == "right" else f" {text}", ha=side, va="center", fontsize="medium")
    for j, (low, high) in enumerate(bars):
        y = -0.3 - 0.25 * j
        picture.plot(
            [low - 0.02, high + 0.02], [y, y], color="#D55E00", linewidth=3.5, solid_capstyle="butt", clip_on=False, zorder=3
        )
    fits = cd <= k - 1
    if fits:
        picture.plot([1, 1, 1, 1 + cd, 1 + cd, 1 + cd], [1.15, 1.35, 1.25, 1.25, 1.35, 1.15], **line)
    picture.text(1 + cd / 2 if fits else (1 + k) / 2, 1.4, f"CD = {cd:.2f}", ha="center", va="bottom", fontsize="small")
    said = f"{n} blocks, Friedman's p = {p:.2g}" + ("" if p <= level else ": no difference is shown")
    canvas.entitle(picture, f"{title}\n{said}" if title else said)
    return picture


def _check_scores(scores: Mapping[str, Any]) -> np.ndarray:
    """The scores as an array [k, N], in which those of a block are equal that differ by the rounding of their dtype alone."""
    if not all(isinstance(name, str) for name in scores):
        raise checks.type_error("scores", "a mapping from names to tensors [N]", scores)
    if len(scores) < 3:
        raise ValueError(f"scores: expected at least three methods, got {list(scores)}; two are compared by runs.compare.")
    for name, value in scores.items():
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.is_meta or value.ndim != 1 or len(value) < 2:
            raise ValueError(f"scores[{name!r}]: expected a floating tensor [N] with N >= 2, got {describe(value)}.")
        if not bool(value.isfinite().all()):
            raise ValueError(f"scores[{name!r}]: it has values that are not finite; leave out these blocks, of all methods.")
    if len({len(value) for value in scores.values()}) > 1:
        raise ValueError(f"scores: expected as many blocks for each, got { {name: len(value) for name, value in scores.items()} }.")
    values = torch.stack([value.detach().cpu().double() for value in scores.values()])
    eps = torch.tensor([2 * torch.finfo(value.dtype).eps for value in scores.values()], dtype=torch.float64)
    found: np.ndarray = tied_blocks(values, eps[:, None] * values.abs()).numpy()
    return found

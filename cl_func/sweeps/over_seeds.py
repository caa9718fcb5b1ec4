"""What is said of the runs of a point together: means over the seeds, which point is best, and how many runs went wrong.

A point is the place of some runs on the axes before the last, the seeds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from cl_func import metrics
from cl_func.plots import heat
from cl_func.sweeps.summaries import Summary

Point = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Standing:
    """Which runs went wrong, each [*axes, seed] bool."""

    finished: Tensor
    diverged: Tensor
    constant: Tensor

    @property
    def kinds(self) -> dict[str, Tensor]:
        """What is said of runs that went wrong -> which they are."""
        return {"diverged": self.diverged, "constant answers": self.constant, "unfinished": ~self.finished}


@dataclasses.dataclass(frozen=True)
class Numbers(Standing):
    """A metric of all runs, `values` [*axes, seed], which is NaN where there is none.

    rounding: how far each may be off, since its history is rounded, [*axes, seed] float64; only where ties matter.
    """

    summary: Summary
    values: Tensor
    rounding: Tensor | None = None

    @property
    def undefined(self) -> Tensor:
        """The runs that went well but have no number."""
        return self.finished & ~self.diverged & self.values.isnan()

    @property
    def usable(self) -> Tensor:
        """The runs that means are taken over."""
        return self.finished & ~self.diverged & ~self.values.isnan()

    @property
    def broken(self) -> Tensor:
        """The runs that are finished, but count as the worst where the best point is sought."""
        return self.diverged | self.constant | self.undefined

    @property
    def kinds(self) -> dict[str, Tensor]:
        """The same with the runs that have no number."""
        return {**super().kinds, "NaN": self.undefined}


def points(shape: tuple[int, ...]) -> Iterator[Point]:
    """The points of runs whose axes have these sizes, the seeds last."""
    return np.ndindex(*shape[:-1])


def mean_ci(numbers: Numbers, confidence: float = 0.95) -> tuple[Tensor, Tensor]:
    """Mean and half-width of the confidence interval over the runs that are usable, each [*axes]; NaN where there are none."""
    values, usable = numbers.values, numbers.usable
    mean = torch.full(values.shape[:-1], math.nan, dtype=values.dtype)
    half_width = mean.clone()
    for point in points(values.shape):
        if usable[point].any():
            mean[point], half_width[point] = metrics.mean_ci(values[point][usable[point]], confidence)
    return mean, half_width


def ranking(numbers: Numbers, largest: bool) -> list[Point]:
    """The points from the best to the worst mean over the finished runs, in which broken ones count as the worst possible value.

    A point with no sound run is not among them.
    """
    summary, values, found = numbers.summary, numbers.values, dict[Point, tuple[float, float]]()
    worst = heat.scale(str(summary.name))[1][0 if largest else 1] if summary.bounded else (-math.inf if largest else math.inf)
    for point in points(values.shape):
        sound, broken = (numbers.finished & ~numbers.broken)[point], numbers.broken[point]
        if bool(sound.any()):
            mean = torch.where(broken, worst, values[point])[numbers.finished[point]].mean().item()
            # Where the worst value is infinite, points that have a broken run are told apart by the other runs.
            found[point] = (mean, 0.0 if summary.bounded else values[point][sound].mean().item())
    return sorted(found, key=found.__getitem__, reverse=largest)


def counts(standing: Standing, point: Point = ()) -> list[tuple[str, str]]:
    """How many runs of a point, or with () of all points, went wrong, and how: [("2 of 10", "diverged")]."""
    numbers = {kind: (int(which[point].sum()), which[point].numel()) for kind, which in standing.kinds.items()}
    return [(f"{count} of {n}", kind) for kind, (count, n) in numbers.items() if count]


def counted(standing: Standing, point: Point = ()) -> str:
    """The same as one text: "2 of 10 diverged, 3 of 10 unfinished"; empty if there are none."""
    return ", ".join(" ".join(parts) for parts in counts(standing, point))

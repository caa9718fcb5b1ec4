"""Successive halving: all points on little, the best of them on more (Jamieson & Talwalkar, "Non-stochastic best arm identification
and hyperparameter optimization", AISTATS 2016; Li, Jamieson, DeSalvo, Rostamizadeh & Talwalkar, "Hyperband", JMLR 2018).

    n_0 = n,  n_{i+1} = ceil(n_i / eta)             points in round i, until one is left: R rounds
    b_i = b / eta^(R - 1 - i)                       of the experiences, or of the seeds, in round i; all in the last

Each round is one sweep, whose points share the lanes. A run begins anew in each round.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

from cl_func import checks
from cl_func.core import Strategy
from cl_func.experiences import Benchmark
from cl_func.select import selections, splits
from cl_func.select.selections import Selection, Sweep
from cl_func.select.splits import Make
from cl_func.sweeps.chosen import Chosen
from cl_func.sweeps.grids import Grid, zipped
from cl_func.sweeps.runs import Runs
from cl_func.sweeps.sweep import sweep as run_sweep


@dataclasses.dataclass(frozen=True)
class Halving:
    """A way to choose a point, made by `successive_halving`; its fields are the arguments of that."""

    selection: Selection
    eta: int = 3
    resource: Literal["experiences", "seeds"] = "experiences"
    least: int = 2

    def describe(self) -> str:
        """How a point is chosen, in words."""
        return f"{self.selection.describe()}, by successive halving"

    def __str__(self) -> str:
        return self.describe()

    def choose(
        self,
        strategy: Strategy,
        benchmark: Benchmark | Make,
        hparams: Grid,
        *,
        seeds: int | Sequence[int] = 10,
        sweep: Sweep = run_sweep,
    ) -> Chosen:
        """The best point of a grid, as `Selection.choose`; `point.searched` are the Runs of the rounds, each with one axis."""
        points = selections.check(hparams, sweep)
        if len(points) == 1:
            return Chosen(points[0], "not chosen: there was one point")
        fresh, selection = selections.fresh_seeds(self.selection.seeds, seeds), self.selection
        sizes, searched = rounds(len(points), self.eta), list[Runs]()
        for i, size in enumerate(sizes):
            share = self.eta ** -(len(sizes) - 1 - i)
            split, some = selection.split, fresh
            if self.resource == "experiences":
                split = functools.partial(splits.begin, split=selection.split, share=share, least=self.least)
            else:
                some = fresh[: max(1, math.ceil(share * len(fresh)))]
            if i:
                points = searched[-1].ranked(selection.metric, largest=selection.largest)[:size] or points[:size]
            grid = zipped({path: [point[path] for point in points] for path in points[0]})
            folder = selections.in_folder(sweep, f"round-{i}")
            searched.append(selections.search(selection, split, strategy, benchmark, grid, some, folder))
        best: dict[str, Any] = searched[-1].best(selection.metric, largest=selection.largest)
        return Chosen(best, selections.how(selection, benchmark, fresh, ", by successive halving"), tuple(searched))


def successive_halving(
    selection: Selection | None = None,
    *,
    eta: int = 3,
    resource: Literal["experiences", "seeds"] = "experiences",
    least: int = 2,
) -> Halving:
    """Choose in rounds: all points on the beginning of the stream, then the best 1 / eta of them on eta times as much.

    With n points there are log_eta(n) rounds, rounded up; the last compares at most eta points on the whole stream.

    selection: whose data, metric and seeds are used; by default `validation()`.
    eta: what is kept of the points is one in eta, at least 2.
    resource: what grows from round to round: the experiences that are trained on, or the seeds, for streams that are short or whose
        first experiences do not tell which point forgets; then give the selection more of them, `validation(seeds=9)`.
    least: how many experiences the first round has at least, if the stream has as many; one tells nothing about forgetting.
    Raises TypeError or ValueError for arguments that are not of these kinds.
    """
    if selection is None:
        selection = selections.validation()
    expected = "a selection such as cl.select.validation()"
    checks.choice("resource", resource, "experiences", "seeds")
    return Halving(
        checks.instance("selection", selection, Selection, expected),
        checks.positive_int("eta", eta, least=2),
        resource,
        checks.positive_int("least", least),
    )


def rounds(n: int, eta: int) -> list[int]:
    """How many points each round has: n, then one in eta of the round before, until one would be left."""
    sizes = list[int]()
    while n > 1:
        sizes.append(n)
        n = math.ceil(n / eta)
    return sizes

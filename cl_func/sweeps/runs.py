"""What a sweep returns: histories with named axes, their summaries, tables and figures."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cl_func import checks, metrics, plots, trace
from cl_func.plots import heat
from cl_func.storage import files
from cl_func.sweeps import divergence, named_axes, runs_file, tables
from cl_func.sweeps.named_axes import Axes, Label
from cl_func.tree import describe

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


# What stands for the accuracy in the metrics of runs, the first that they have, and which way it is better: None for what lies in
# [0, 1] as accuracies do.
MEASURES: dict[str, bool | None] = {"accuracy": None, "mean_average_precision": None, "mse": False}
# Of another measure than the accuracy they have its name in that place, such as "average_mse".
METRICS = ("average_accuracy", "average_anytime_accuracy", "forgetting", "backward_transfer", "learning_accuracy")


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs of a sweep: a product of hyperparameter axes and, last, the seeds.

    axes: name -> labels of the points, in the order of the histories' leading axes; the last is "seed".
    history: name -> tensor [*axes, seed, time, ...]; NaN where a run is not finished.
    finished: [*axes, seed] bool, False for runs that were interrupted.
    seconds: the wall time of the sweep.

    Raises TypeError or ValueError for axes, histories and `finished` that do not fit together.
    """

    axes: Axes
    history: dict[str, Tensor]
    finished: Tensor
    seconds: float
    _replay: Callable[[int], Any] | None = dataclasses.field(default=None, repr=False, compare=False)  # the state of run i

    def __post_init__(self) -> None:
        shape = named_axes.check(self.axes)
        checks.tensor("finished", self.finished, shape, torch.bool)
        if not isinstance(self.history, dict) or not all(isinstance(value, Tensor) for value in self.history.values()):
            raise checks.type_error("history", "a dict from names to tensors [*axes, time, ...]", self.history)
        for name, value in self.history.items():
            if value.shape[: len(shape)] != shape:
                raise ValueError(f"history: {name!r} is {describe(value)}, but the axes {[*self.axes]} have the sizes {[*shape]}.")
        checks.instance("seconds", self.seconds, (int, float), "a number of seconds")

    def __repr__(self) -> str:
        axes = ", ".join(f"{name}: {len(labels)}" for name, labels in self.axes.items())
        histories = ", ".join(f"{name} {describe(value)}" for name, value in self.history.items()) or "no history"
        return f"Runs({axes}; {histories}; {self._summary() or 'all finished'}; {self.seconds:.1f} s)"

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each axis, seeds last."""
        return tuple(len(labels) for labels in self.axes.values())

    @functools.cached_property
    def diverged(self) -> Tensor:
        """Which runs have diverged, [*axes, seed] bool: the loss is NaN at the end, on any test experience that has rows.

        They answer one class for everything, so their accuracy is that of guessing: it stays in the histories and in `metric`, but
        means over the seeds leave it out, and say so. For runs that are not finished it is False.
        """
        return divergence.diverged(self.history, self.finished)

    @functools.cached_property
    def constant(self) -> Tensor:
        """Which runs give constant answers though their loss is not NaN, [*axes, seed] bool: one class for all rows at the end.

        Their units may be dead, or they may have trained too little. Means include their accuracy, and tables say how many they
        are. It is judged by the history "class_accuracy". A model that was trained on a single class last and predicts that class,
        so that its accuracy on the last test experience is 1, is not counted.
        """
        return divergence.constant(self.history, self.finished)

    def __getitem__(self, name: str) -> Tensor:
        """A history by name, such as runs["accuracy"]: [*axes, seed, time, T]."""
        if name not in self.history:
            known = f"there is {', '.join(self.history)}" if self.history else "there is none, since no run is finished"
            raise ValueError(f"{name!r}: no such history; {known}.")
        return self.history[name]

    def curve(self, name: str) -> Tensor:
        """The curves of a trace that the probe measured, by its slot: [*axes, seed, step], NaN behind the steps of a run.

        Runs that are not finished have none. Warns of values that are lost, and raises, as `cl.trace.read` does.
        """
        values, count = self[f"{name}.values"], self[f"{name}.count"]
        return trace.read(trace.Snapshot(values=values.movedim(-2, 0), count=count.movedim(-1, 0)))

    def metric(self, metric: str | None = None) -> Tensor:
        """One number per run at its end, [*axes, seed]: one of METRICS; for online streams only the mean accuracy over all.

        It is made of the history "accuracy", or where there is none of "mean_average_precision", or of "mse", in which lower is
        better. The names say so: "average_mse", which is the default there. NaN for runs that are not finished, and for those that
        diverged if their accuracies are NaN.
        """
        metric, function = self._metric(metric)
        R, higher = self[self._measure], MEASURES[self._measure]
        square = R.shape[-1] == R.shape[-2]
        if not square and function is not metrics.average_accuracy:
            raise ValueError(
                f"metric: {metric} needs one time per experience, but there are {R.shape[-2]} times for {R.shape[-1]}; "
                "call cl.metrics yourself with seen=."
            )
        flat = R.reshape(-1, *R.shape[-2:])
        done = self.finished.flatten() & ~(self.diverged.flatten() & (~flat.isfinite()).any(-1).any(-1))
        out = torch.full((len(flat),), math.nan, dtype=R.dtype)
        if bool(done.any()):
            if square:
                value = function(flat[done], higher_is_better=higher)
            else:
                value = metrics._check_accuracies(self._measure, flat[done], 3, higher)[:, -1].mean(-1)
            out[done] = value[..., -1] if value.ndim == 2 else value
        return out.reshape(self.finished.shape)

    def mean_ci(self, metric: str | None = None, confidence: float = 0.95) -> tuple[Tensor, Tensor]:
        """Mean and half-width of the confidence interval over the seeds, each [*axes].

        They are taken over the runs that are finished and have not diverged; NaN for a point without such runs.
        """
        values, usable = self.metric(metric), self.finished & ~self.diverged
        mean = torch.full(self.shape[:-1], math.nan, dtype=values.dtype)
        half_width = mean.clone()
        for point in self._points():
            if usable[point].any():
                mean[point], half_width[point] = metrics.mean_ci(values[point][usable[point]], confidence)
        return mean, half_width

    def best(self, metric: str | None = None, *, largest: bool | None = None) -> dict[str, Label]:
        """The point of the hyperparameter axes with the best mean over the seeds: axis name -> label; for `tree.set`.

        largest: whether larger is better; by default it is for all metrics but forgetting and means of errors.
        Runs that are not finished are left out. Those that diverged or give constant answers count as the worst possible value, so
        that no point wins by them, and a point with no other runs is never chosen. A warning is given if the best point has such
        runs, or if some runs are not finished. Raises ValueError if there are no other runs.

        Choose by the accuracy on a validation stream, not on the test stream.
        """
        metric, _ = self._metric(metric)
        values, broken = self.metric(metric), self.diverged | self.constant
        higher = MEASURES[self._measure]
        if largest is None:
            largest = metric != "forgetting" and (higher is not False or metric in heat.SIGNED)
        else:
            checks.flag("largest", largest)
        worst = heat.scale(metric)[1][0 if largest else 1] if higher is None else (-math.inf if largest else math.inf)
        means = {}
        for point in self._points():
            sound = (self.finished & ~broken)[point]
            if bool(sound.any()):
                mean = torch.where(broken[point], worst, values[point])[self.finished[point]].mean().item()
                # Where the worst value is infinite, points that have a broken run are told apart by the other runs.
                means[point] = (mean, 0.0 if higher is None else values[point][sound].mean().item())
        if not means:
            raise ValueError(f"best: there is nothing to choose from: of all runs, {self._summary()}.")
        best = (max if largest else min)(means, key=means.__getitem__)
        found = {name: labels[i] for (name, labels), i in zip(self.axes.items(), best, strict=False)}
        if not bool(self.finished.all()) or bool(broken[best].any()):
            summary = self._summary(best) or "all its runs are finished and sound"
            warnings.warn(f"best: {found}: {summary}; of all runs, {self._summary()}.", stacklevel=2)
        return found

    def table(self, metric: str | None = None) -> str:
        """A Markdown table: one row per point of the hyperparameter axes, mean ± half-width over the seeds, as in `mean_ci`.

        Each row also says how many of its runs diverged or are not finished, and so are left out, or give constant answers.
        """
        metric, _ = self._metric(metric)
        mean, half_width = self.mean_ci(metric)
        form = "z.3f" if MEASURES[self._measure] is None else ".3g"
        header = [*list(self.axes)[:-1], f"{metric} ({self.shape[-1]} seeds)"]
        return tables.markdown(
            header,
            [
                [
                    *self._texts(point).values(),
                    tables.cell(mean[point].item(), half_width[point].item(), self._summary(point), form),
                ]
                for point in self._points()
            ],
        )

    def to_pandas(self) -> DataFrame:
        """One row per run, time and test experience: a pandas DataFrame with a column per axis and per history [*axes, time, T].

        The columns of the axes hold the labels, as text where they are not numbers or strings; further columns are `finished`,
        `diverged` and `constant`. Raises ValueError where two columns would have one name.
        """
        runs = {"finished": self.finished, "diverged": self.diverged, "constant": self.constant}
        return tables.frame(self.axes, runs, {n: v for n, v in self.history.items() if v.shape == self[self._measure].shape})

    def state(self, **labels: Label) -> Any:
        """The final state, as `init` makes them, of the run with some labels: `runs.state(seed=3, **{"opt.lr": 0.1})`.

        States are not stored: the run is pure, and is done once more, by itself. Raises ValueError for Runs that were loaded.
        """
        if self._replay is None:
            raise ValueError(
                "state: these Runs were loaded from a file and cannot run again; sweep again, or fold one run yourself."
            )
        unknown = [name for name in labels if name not in self.axes]
        if unknown:
            raise ValueError(f"{unknown[0]!r}: no such axis; there is {', '.join(self.axes)}.")
        index = []
        for name, values in self.axes.items():
            label = labels.get(name, values[0] if len(values) == 1 else None)
            if label not in values:
                raise ValueError(f"{name}: expected one of {values}, got {label!r}.")
            index.append(values.index(label))
        return self._replay(int(np.ravel_multi_index(tuple(index), self.shape)))

    def save(self, path: str | Path) -> None:
        """Write axes and histories to a safetensors file, as `cl.save` does.

        Raises TypeError, naming the axis, for a label that would not come back as it is: anything but a Python number, a string,
        None, or a list, tuple or dict of them.
        """
        header = runs_file.header(self.axes, self.history, self.seconds)
        files.write(path, runs_file.tensors(self.history, self.finished), header)

    @staticmethod
    def load(path: str | Path, axes: Sequence[str] | None = None) -> Runs:
        """Read and check what `save` wrote; raises as `cl.load` does. Loaded runs cannot give their final states.

        axes: the names of the axes in order, "seed" last; needed only for a file of format 1, which did not keep their order, with
            two axes of one size. ValueError for names or an order that are not those of the file.
        """
        return Runs.of(*files.read(path, "runs"), path, axes)

    @staticmethod
    def of(
        tensors: dict[str, Tensor], header: dict[str, runs_file.JSON], path: str | Path, axes: Sequence[str] | None = None
    ) -> Runs:
        """The Runs of the tensors and the header of a file; DamagedFile if they do not fit together."""
        parts = runs_file.contents(tensors, header, path, axes)
        try:
            return Runs(*parts)
        except (TypeError, ValueError) as error:
            raise files.DamagedFile(f"path: {path} is damaged: its histories do not have the shape of its axes. {error}") from error

    def plot_timeline(self) -> Figure:
        """Average accuracy over time, one line with its band per point of the hyperparameter axes.

        Without accuracies, of the measure that stands for them, as in `metric`.         Runs that diverged are left out; the legend
        says how many did, and how many give constant answers. Raises ValueError if some runs are not finished.
        """
        curves, missing = self._usable_accuracies()
        higher = MEASURES[self._measure]
        return plots.accuracy_timeline(
            {name: metrics.average_accuracy(R, higher_is_better=higher) for name, R in curves.items()},
            ylabel=f"average {self._measure}".replace("_", " "),
            missing=missing,
            higher_is_better=higher,
        )

    def plot_matrix(self) -> Figure:
        """The mean accuracy matrix of every point of the hyperparameter axes; otherwise as `plot_timeline`."""
        accuracies, missing = self._usable_accuracies()
        measure = self._measure
        return plots.matrices(accuracies, missing=missing, measure=measure.replace("_", " "), higher_is_better=MEASURES[measure])

    def plot_grid(self, metric: str | None = None) -> Figure:
        """The mean of a metric over two hyperparameter axes as a heat map; the cells give the same counts of runs as `table`.

        Raises ValueError unless there are exactly two.
        """
        names = list(self.axes)[:-1]
        if len(names) != 2:
            raise ValueError(f"plot_grid: draws two hyperparameter axes, these runs have {names}.")
        metric, _ = self._metric(metric)
        mean, _ = self.mean_ci(metric)
        rows, columns = ((name, named_axes.texts(name, self.axes[name])) for name in names)
        notes = {
            point: "\n".join(itertools.chain(*self._counts(point))).replace("constant ", "constant\n") for point in self._points()
        }
        higher = MEASURES[self._measure]
        title = self._summary() or None
        return plots.hyperparameter_grid(
            mean, metric, rows=rows, columns=columns, notes=notes, title=title, higher_is_better=higher
        )

    @property
    def _measure(self) -> str:
        """The name of the history that the metrics are made of: "accuracy" unless there is only another one."""
        return next((name for name in MEASURES if name in self.history), "accuracy")

    def _metric(self, metric: str | None) -> tuple[str, Callable[..., Tensor]]:
        """The name of a metric, None being the average, and its function on a matrix [..., time, T]."""
        names = {name.replace("accuracy", self._measure): getattr(metrics, name) for name in METRICS}
        if metric is None:
            metric = next(iter(names))
        if metric not in names:
            raise ValueError(f"metric: expected one of {', '.join(names)}, got {metric!r}.")
        return metric, names[metric]

    def _points(self) -> Iterator[tuple[int, ...]]:
        """The indices of each point along the hyperparameter axes."""
        return np.ndindex(*self.shape[:-1])

    def _texts(self, point: tuple[int, ...]) -> dict[str, str]:
        """The labels of a point as text, by axis."""
        return {n: named_axes.texts(n, self.axes[n])[i] for n, i in zip(self.axes, point, strict=False)}

    def _counts(self, point: tuple[int, ...]) -> list[tuple[str, str]]:
        """How many runs of a point, or with () of all points, diverged and the like: [("2 of 10", "diverged")]."""
        kinds = {"diverged": self.diverged, "constant answers": self.constant, "unfinished": ~self.finished}
        counts = {kind: (int(which[point].sum()), which[point].numel()) for kind, which in kinds.items()}
        return [(f"{count} of {n}", kind) for kind, (count, n) in counts.items() if count]

    def _summary(self, point: tuple[int, ...] = ()) -> str:
        """The same as one text: "2 of 10 diverged, 3 of 10 unfinished"; empty if there are none."""
        return ", ".join(" ".join(parts) for parts in self._counts(point))

    def _usable_accuracies(self) -> tuple[dict[str, Tensor], list[str]]:
        """The accuracies of the runs that have not diverged, by the name of their point; and the names of points without any."""
        if not bool(self.finished.all()):
            raise ValueError("some runs are not finished; sweep again with resume=FOLDER to complete them.")
        R, usable, found, missing = self[self._measure], ~self.diverged, dict[str, Tensor](), list[str]()
        for point in self._points():
            name = ", ".join(f"{axis}={text}" for axis, text in self._texts(point).items()) or "mean"
            name += f" ({summary})" if (summary := self._summary(point)) else ""
            if usable[point].any():
                found[name] = R[point][usable[point]]
            else:
                missing.append(name)
        return found, missing


files.KINDS["runs"] = Runs

"""What a sweep returns: histories with named axes, their summaries, tables and pictures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cl_func import checks, files, metrics, named_axes, plots, runs_file
from cl_func.tree import describe

if TYPE_CHECKING:
    from matplotlib.figure import Figure


METRICS = ("average_accuracy", "average_anytime_accuracy", "forgetting", "backward_transfer", "learning_accuracy")


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs of a sweep: a product of hyperparameter axes and, last, the seeds.

    history: name -> tensor [*axes, seed, time, ...]; NaN where a run is not finished.
    axes: name -> labels of the points, in the order of the history's leading axes; the last is "seed".
    finished: [*axes, seed] bool, False for runs that an interrupt left out.
    seconds: wall time of the sweep.

    Raises TypeError or ValueError for axes, histories and `finished` that do not fit together.
    """

    axes: dict[str, list[Any]]
    history: dict[str, Tensor]
    finished: Tensor
    seconds: float
    _replay: Any = dataclasses.field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        shape = named_axes.check(self.axes)
        checks.tensor("finished", self.finished, shape, torch.bool)
        if not isinstance(self.history, dict) or not all(isinstance(value, Tensor) for value in self.history.values()):
            raise checks.refuse("history", "a dict from names to tensors [*axes, time, ...]", self.history)
        for name, value in self.history.items():
            if value.shape[: len(shape)] != shape:
                raise ValueError(f"history: {name!r} is {describe(value)}, but the axes {[*self.axes]} have the sizes {[*shape]}.")
        checks.instance("seconds", self.seconds, (int, float), "a number of seconds")

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each axis, seeds last."""
        return tuple(len(labels) for labels in self.axes.values())

    def __getitem__(self, name: str) -> Tensor:
        """A history by name, such as runs["accuracy"]: [*axes, seed, time, T]."""
        if name not in self.history:
            there = f"there is {', '.join(self.history)}" if self.history else "there is none, since no run is finished"
            raise ValueError(f"{name!r}: no such history; {there}.")
        return self.history[name]

    def metric(self, metric: str = "average_accuracy") -> Tensor:
        """One number per run, [*axes, seed], at its end: a metric of METRICS; in online streams the mean accuracy over all."""
        if metric not in METRICS:
            raise ValueError(f"metric: expected one of {', '.join(METRICS)}, got {metric!r}.")
        function, R = getattr(metrics, metric), self["accuracy"]
        square = R.shape[-1] == R.shape[-2]
        if not square and metric != "average_accuracy":
            raise ValueError(
                f"metric: {metric} needs one time per experience, but there are {R.shape[-2]} times for {R.shape[-1]}; "
                "call cl.metrics yourself with seen=."
            )
        flat, done = R.reshape(-1, *R.shape[-2:]), self.finished.flatten()
        out = torch.full((len(flat),), math.nan, dtype=R.dtype)
        if bool(done.any()):
            value = function(flat[done]) if square else flat[done][:, -1].mean(-1)
            out[done] = value[..., -1] if value.ndim == 2 else value
        return out.reshape(self.finished.shape)

    def mean_ci(self, metric: str = "average_accuracy", confidence: float = 0.95) -> tuple[Tensor, Tensor]:
        """Mean and half-width of the confidence interval over the seeds, each [*axes]."""
        return metrics.mean_ci(self.metric(metric), confidence, dim=-1)

    def best(self, metric: str = "average_accuracy", *, largest: bool = True) -> dict[str, Any]:
        """The point of the hyperparameter axes with the best mean over the seeds: axis name -> label; for `tree.set`.

        Choose by the accuracy on a validation stream, not on the test stream.
        """
        mean, _ = self.mean_ci(metric)
        worst = -math.inf if largest else math.inf
        ranked = torch.nan_to_num(mean, nan=worst).flatten()
        place = int(ranked.argmax() if largest else ranked.argmin())
        where = np.unravel_index(place, mean.shape) if mean.ndim else ()
        names = list(self.axes)[:-1]
        return {name: self.axes[name][i] for name, i in zip(names, where, strict=True)}

    def table(self, metric: str = "average_accuracy") -> str:
        """A Markdown table: one row per point of the hyperparameter axes, mean ± half-width over the seeds."""
        mean, half = self.mean_ci(metric)
        names = list(self.axes)[:-1]
        lines = ["| " + " | ".join([*names, f"{metric} ({self.shape[-1]} seeds)"]) + " |", "|" + " --- |" * (len(names) + 1)]
        for where in np.ndindex(*mean.shape):
            lines.append("| " + " | ".join([*self._texts(where).values(), f"{mean[where]:.3f} ± {half[where]:.3f}"]) + " |")
        return "\n".join(lines)

    def to_pandas(self) -> Any:
        """One row per run, time and test experience: a pandas DataFrame with a column per axis and per history of shape [.., T]."""
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("Runs.to_pandas needs pandas: pip install pandas") from error
        R = self["accuracy"]
        same = {name: value for name, value in self.history.items() if value.shape == R.shape}
        index = np.indices(tuple(R.shape)).reshape(R.ndim, -1)
        columns = {name: np.array(named_axes.plain(name, labels))[index[a]] for a, (name, labels) in enumerate(self.axes.items())}
        columns |= {"time": index[-2], "test_experience": index[-1]}
        return pd.DataFrame({**columns, **{name: value.flatten().numpy() for name, value in same.items()}})

    def state(self, **labels: Any) -> Any:
        """The final state of one run, named by its labels: `runs.state(seed=3, **{"opt.lr": 0.1})`.

        Nothing is stored: being pure, the run is done once more, by itself. Raises ValueError for Runs that were loaded.
        """
        if self._replay is None:
            raise ValueError(
                "state: these Runs were loaded from a file and cannot run again; sweep again, or fold one run yourself."
            )
        unknown = [name for name in labels if name not in self.axes]
        if unknown:
            raise ValueError(f"{unknown[0]!r}: no such axis; there is {', '.join(self.axes)}.")
        where = []
        for name, values in self.axes.items():
            label = labels.get(name, values[0] if len(values) == 1 else None)
            if label not in values:
                raise ValueError(f"{name}: expected one of {values}, got {label!r}.")
            where.append(values.index(label))
        return self._replay(int(np.ravel_multi_index(tuple(where), self.shape)))

    def save(self, path: str | Path) -> None:
        """Write axes and histories to a safetensors file, as `cl.save` does.

        Raises TypeError, naming the axis, for a label that would come back as another: one that is no Python number, string, None,
        or list, tuple or dict of them.
        """
        header = runs_file.header(self.axes, self.history, self.seconds)
        files.write(path, runs_file.tensors(self.history, self.finished), header)

    @staticmethod
    def load(path: str | Path, axes: Sequence[str] | None = None) -> Runs:
        """Read what `save` wrote, all checked; errors as of `cl.load`. Final states of loaded runs are not at hand.

        axes: the names of the axes in order, "seed" last; asked for only where a file of format 1, which did not keep their order,
            has two of one size. ValueError for other names or another order than the file has.
        """
        return Runs.of(*files.read(path, "runs"), path, axes)

    @staticmethod
    def of(tensors: dict[str, Tensor], header: dict[str, Any], path: str | Path, axes: Sequence[str] | None = None) -> Runs:
        """The Runs in the tensors and the header of a file; DamagedFile where they do not fit together."""
        parts = runs_file.contents(tensors, header, path, axes)
        try:
            return Runs(*parts)
        except (TypeError, ValueError) as error:
            raise files.DamagedFile(f"path: {path} is damaged: its histories do not have the shape of its axes. {error}") from error

    def plot_timeline(self) -> Figure:
        """Average accuracy over time, one line with its band per point of the hyperparameter axes."""
        return plots.accuracy_timeline(self._by_point(metrics.average_accuracy(self._finished("accuracy"))))

    def plot_matrix(self) -> Figure:
        """The mean accuracy matrix of every point of the hyperparameter axes."""
        return plots.matrices(self._by_point(self._finished("accuracy")))

    def plot_grid(self, metric: str = "average_accuracy") -> Figure:
        """The mean of a metric over two hyperparameter axes as a heat map. Raises ValueError unless there are two."""
        names = list(self.axes)[:-1]
        if len(names) != 2:
            raise ValueError(f"plot_grid: draws two hyperparameter axes, these runs have {names}.")
        mean, _ = self.mean_ci(metric)
        rows, columns = ((name, named_axes.texts(name, self.axes[name])) for name in names)
        return plots.hyperparameter_grid(mean, metric, rows=rows, columns=columns)

    def _texts(self, where: tuple[int, ...]) -> dict[str, str]:
        """The labels of a point in words, by axis."""
        return {n: named_axes.texts(n, self.axes[n])[i] for n, i in zip(self.axes, where, strict=False)}

    def _by_point(self, values: Tensor) -> dict[str, Tensor]:
        return {
            ", ".join(f"{axis}={text}" for axis, text in self._texts(where).items()) or "mean": values[where]
            for where in np.ndindex(*self.shape[:-1])
        }

    def _finished(self, name: str) -> Tensor:
        if not bool(self.finished.all()):
            raise ValueError("some runs are not finished; sweep again with resume=FOLDER to complete them.")
        return self[name]

"""What a sweep returns: histories with named axes, their summaries, tables and figures."""

from __future__ import annotations

import dataclasses
import functools
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cl_func import checks, trace, user_warnings
from cl_func.core import divergence
from cl_func.storage import files
from cl_func.sweeps import (
    chosen,
    comparison,
    frames,
    joining,
    labelled_arrays,
    named_axes,
    over_seeds,
    reports,
    runs_file,
    selection,
    summaries,
    tables,
)
from cl_func.sweeps.comparison import Comparison
from cl_func.sweeps.named_axes import Axes, Label
from cl_func.sweeps.pictures import RunsPictures
from cl_func.sweeps.significance import Test
from cl_func.sweeps.summaries import METRICS as METRICS
from cl_func.sweeps.summaries import Metric
from cl_func.tree import describe

if TYPE_CHECKING:
    from pandas import DataFrame
    from xarray import Dataset


@dataclasses.dataclass(frozen=True)
class Runs(RunsPictures):
    """The runs of a sweep: a product of hyperparameter axes and, last, the seeds.

    axes: name -> labels of the points, in the order of the histories' leading axes; the last is "seed".
    history: name -> tensor [*axes, seed, time, ...]; NaN where a run is not finished.
    finished: [*axes, seed] bool, False for runs that were interrupted.
    seconds: the wall time of the sweep.
    attributes: name -> what else is to be remembered, of the types that labels have: "strategy", what was run, with its arguments;
        where and with which versions; "scales", what the paths of a random grid were drawn on; "at", the labels that `at` has
        chosen; "chosen", how a selection has chosen hyperparameters; and "joined", what belongs to one of the Runs that `join` has
        put together.

    A metric, wherever one is asked for, is the name of one, METRICS of the history "accuracy"; or of another history, such as
    "average_loss", "forgetting" with `history="r2"`, and "final_weight_norm", the mean of the last entry; or a function from the
    history [time, ...] of a run to a number, such as those of `cl.metrics`; or a pair of one of these and a history. By default it
    is the average accuracy, or where there is none that of "mean_average_precision", or of "mse".
    higher_is_better: asked for where it matters and is not known, of histories that `cl.evaluate` does not measure.

    Raises TypeError or ValueError for axes, histories and `finished` that do not fit together.
    """

    axes: Axes
    history: dict[str, Tensor]
    finished: Tensor
    seconds: float
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    _replay: Callable[[int], Any] | None = dataclasses.field(default=None, repr=False, compare=False)  # the state of run i

    def __post_init__(self) -> None:
        shape = named_axes.check(self.axes)
        checks.tensor("finished", self.finished, shape, torch.bool)
        if self.finished.is_meta:
            raise ValueError("finished: it is on the device meta, which holds no values.")
        if not isinstance(self.history, dict) or not all(isinstance(value, Tensor) for value in self.history.values()):
            raise checks.type_error("history", "a dict from names to tensors [*axes, time, ...]", self.history)
        for name, value in self.history.items():
            if value.shape[: len(shape)] != shape:
                raise ValueError(f"history: {name!r} is {describe(value)}, but the axes {[*self.axes]} have the sizes {[*shape]}.")
        checks.instance("seconds", self.seconds, (int, float), "a number of seconds")
        if not isinstance(self.attributes, dict) or not all(isinstance(name, str) for name in self.attributes):
            raise checks.type_error(
                "attributes", "a dict from names to numbers, strings, or lists and dicts of them", self.attributes
            )

    def __repr__(self) -> str:
        axes = ", ".join(f"{name}: {len(labels)}" for name, labels in self.axes.items())
        histories = ", ".join(f"{name} {describe(value)}" for name, value in self.history.items()) or "no history"
        try:
            best = reports.headline(self.axes, self._numbers())
        except ValueError:  # no metric can be made of these histories
            best = ""
        parts = [axes, histories, best, self._summary() or "all finished", self._note.rstrip("."), f"{self.seconds:.1f} s"]
        return f"Runs({'; '.join(part for part in parts if part)})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the same, with the table of the first points."""
        shown, n = 20, self.finished[..., 0].numel()
        try:
            columns = [(None, self._numbers(one)) for one in self._shown]
            table = reports.table(self.axes, columns, "html", n_rows=shown, note=self._note)
        except ValueError:
            table, shown = "", n
        rest = f"<p>and {n - shown} more points</p>" if n > shown else ""
        return f"<p>{html.escape(repr(self))}</p>\n{table}{rest}"

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
        if f"{name}.values" not in self.history:
            known = [one.removesuffix(".values") for one in self.history if one.endswith(".values")]
            there = f"there is {', '.join(known) or 'none'}"
            raise ValueError(f"name: there is no trace {name!r}, {there}; a sweep measures it with cl.trace.probe({name!r}).")
        values, count = self[f"{name}.values"], self[f"{name}.count"]
        return trace.read(trace.Snapshot(values=values.movedim(-2, 0), count=count.movedim(-1, 0)))

    @staticmethod
    def join(runs: Mapping[str, Runs], axis: str = "method", histories: Sequence[str] | None = None) -> Runs:
        """Runs side by side along a new first axis: `cl.Runs.join({"ER": er, "DER++": der})`; `at(method="ER")` gives each back.

        They need the same labels on all axes, the seeds too, in any order; methods that have other hyperparameters are joined at
        one point of each, `er.at(**er.best())`, which the attributes keep.

        histories: which to join; by default all, which must be of the same names, shapes and dtypes.
        Raises TypeError or ValueError, naming the first that differs, for Runs that cannot be joined.
        """
        joining.check(runs, Runs, axis, histories)
        return Runs(*joining.join(runs, axis, histories))

    def at(self, /, **point: Any) -> Runs:
        """The Runs with some labels: `runs.at(method="ER", seed=[0, 1])`, `runs.at(**runs.best())`, `runs.at(**{"opt.lr": 0.1})`.

        point: by axis a label, whose axis is then gone (but for "seed", which stays with one label), or a list of labels. The paths
            of a zipped axis may be given one by one, all of them.
        Raises ValueError for an axis or a label that is not there.
        """
        index = selection.positions(self.axes, point)
        seed = index.get("seed")
        if isinstance(seed, int):
            index["seed"] = [seed]
        attributes, seconds = selection.taken_attributes(self.attributes, self.seconds, self.axes, index)
        return Runs(
            selection.taken_axes(self.axes, index),
            {name: selection.take(value, self.axes, index) for name, value in self.history.items()},
            selection.take(self.finished, self.axes, index),
            seconds,
            attributes,
            selection.taken_replay(self._replay, self.axes, index),
        )

    def metric(self, metric: Metric | None = None, history: str | None = None, *, higher_is_better: bool | None = None) -> Tensor:
        """One number per run at its end, [*axes, seed]: one of METRICS; for online streams only the mean accuracy over all.

        metric: also of other histories, or a function of one, see `Runs`; of "mse" the names are "average_mse" and so on.
        history: what it is made of, if not what stands for the accuracy; needed where several do, as of two evaluations.
        higher_is_better: of the values of that history.
        NaN for runs that are not finished, and for those that diverged if their histories have values that are not finite.

        Raises ValueError for a name or a history that is not there, and for a history that the metric cannot be made of.
        """
        return self._numbers(metric, history, higher_is_better).values

    def mean_ci(
        self,
        metric: Metric | None = None,
        confidence: float = 0.95,
        *,
        history: str | None = None,
        higher_is_better: bool | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean and half-width of the confidence interval over the seeds, each [*axes]; the arguments are those of `metric`.

        They are taken over the runs that are finished and have not diverged, and for which the metric is not NaN; NaN for a point
        without such runs.
        """
        return over_seeds.mean_ci(self._numbers(metric, history, higher_is_better), confidence)

    def best(
        self,
        metric: Metric | None = None,
        *,
        largest: bool | None = None,
        history: str | None = None,
        higher_is_better: bool | None = None,
    ) -> dict[str, Label]:
        """The point of the hyperparameter axes with the best mean over the seeds: path -> value, for `tree.set` and `at`.

        A value is a label; of a zipped axis it is that of each path, and of a leaf with several numbers a tensor of them.

        largest: whether larger is better; by default it is for all metrics but forgetting and means of errors. It is needed for a
            function of one's own, and for histories of which that is not known. The others are those of `metric`.
        Runs that are not finished are left out. Those that diverged, give constant answers or have NaN for the metric count as the
        worst possible value, so that no point wins by them, and a point with no other runs is never chosen. A warning is given if
        the best point has such runs, or if some runs are not finished. Raises ValueError if there are no other runs.

        Choose by the accuracy on a validation stream, not on the test stream: `cl.select.validation`.
        """
        numbers, ranking = self._ranking(metric, largest, history, higher_is_better)
        if not ranking:
            raise ValueError(f"best: there is nothing to choose from: of all runs, {over_seeds.counted(numbers)}.")
        best = ranking[0]
        if not bool(self.finished.all()) or bool(numbers.broken[best].any()):
            text = over_seeds.counted(numbers, best) or "all its runs are finished and sound"
            found = named_axes.labels_at(self.axes, best)
            user_warnings.warn(f"best: {found}: {text}; of all runs, {over_seeds.counted(numbers)}.")
        return named_axes.values_at(self.axes, best, self.attributes.get(named_axes.DTYPES, {}))

    def ranked(
        self,
        metric: Metric | None = None,
        *,
        largest: bool | None = None,
        history: str | None = None,
        higher_is_better: bool | None = None,
    ) -> list[dict[str, Label]]:
        """The points from the best to the worst, each as `best` gives the first; the arguments are those of `best`.

        Points without a sound run are left out; no warning is given. Equal points are in the order of the axes.
        """
        _, ranking = self._ranking(metric, largest, history, higher_is_better)
        return [named_axes.values_at(self.axes, point, self.attributes.get(named_axes.DTYPES, {})) for point in ranking]

    def table(
        self,
        metric: Metric | Sequence[Metric] | Mapping[str, Metric] | None = None,
        format: tables.Format = "markdown",
        *,
        history: str | None = None,
        higher_is_better: bool | None = None,
        largest: Mapping[str, bool] | None = None,
    ) -> str:
        """A table: one row per point of the hyperparameter axes, and for each metric its mean ± half-width, as in `mean_ci`.

        metric: one, a list of them, or a mapping from the heads of their columns to them; as in `metric`. By default one, or
            one for each history where it could be made of several, as of the accuracies on validation and test data.
        format: "markdown"; "latex", a tabular for the package booktabs; or "html". In the latter two the best mean of a column
            is bold and the second best underlined, among the points whose runs are all finished and none of which diverged.
        largest: head -> whether larger is better, for metrics of which that is not known: functions of one's own.
        Each cell also says how many of its runs diverged, are not finished or have NaN for the metric, and so are left out, or give
        constant answers. Below the table stands how the hyperparameters were chosen, if a selection of `cl.select` has chosen them.
        """
        checks.choice("format", format, *tables.FORMATS)
        if largest is not None:
            checks.instance("largest", largest, Mapping, "None or a mapping from heads of columns to True or False")
            for which in largest.values():
                checks.flag("largest", which)
        if metric is None and history is None:
            metric = self._shown
        columns = [(head, self._numbers(one, history, higher_is_better)) for head, one in reports.columns(metric)]
        return reports.table(self.axes, columns, format, largest, note=self._note)

    def compare(
        self,
        a: Label = None,
        b: Label = None,
        metric: Metric | None = None,
        *,
        axis: str = "method",
        test: Test = "wilcoxon",
        confidence: float = 0.95,
        history: str | None = None,
        higher_is_better: bool | None = None,
    ) -> Comparison:
        """Test differences of a metric between points of an axis, paired over the seeds: `runs.compare("ER", "DER++")`.

        a, b: labels of the axis; with a alone it is compared with all others, without both there are all pairs. Each is compared
            at every point of the other axes, such as in every setting, and p is corrected for all that are compared in one call.
        test: "wilcoxon", the signed-rank test, or "t", Student's, which needs fewer seeds but assumes normally distributed
            differences. Both are two-sided and paired.
        confidence: of the interval of the mean difference, Student's as in `mean_ci`; 1 - confidence is the level of the test.
        Seeds with which one of the two diverged, is not finished, or has NaN for the metric are left out, and named.

        Print the result for a table; it says where there are too few seeds for anything to be significant. The other arguments are
        those of `metric`. Needs scipy. Raises ValueError for an axis or labels that are not there.
        """
        numbers = self._numbers(metric, history, higher_is_better, precise=True)
        return comparison.compare(numbers, self.axes, a, b, axis, test, confidence)

    def to_pandas(
        self, histories: str | Sequence[str] | None = None, *, metrics: Sequence[Metric] | Mapping[str, Metric] | None = None
    ) -> DataFrame:
        """A pandas DataFrame with one row per run, time and test experience, or with `metrics` one per run.

        histories: which, one or several of one shape; by default all that are by time and test experience. There is a column for
            each, and for "time" and what else they are by, such as "test_experience".
        metrics: as in `table`, a column for each.
        There is a column per axis with its labels, as text only where they are neither numbers nor strings, and one per path of a
        zipped axis; further columns are `finished`, `diverged` and `constant`. Raises ValueError where two would have one name.
        """
        if metrics is None:
            return frames.alike(self.axes, self._flags, self.history, histories, self._measure)
        numbers = [(head, self._numbers(one)) for head, one in reports.columns(metrics)]
        found = {head or one.summary.title: one.values for head, one in numbers}
        if len(found) < len(numbers):
            raise ValueError(f"metrics: two columns would have one name, among {list(found)}; give them as a mapping.")
        return frames.frame(self.axes, {**self._flags, **found}, {})

    def to_xarray(self) -> Dataset:
        """An xarray Dataset, `runs.to_xarray().to_netcdf("runs.nc")`: the axes are dimensions, with their labels as coordinates.

        Its variables are the histories, with the further dimensions "time", "test_experience" and the like, and `finished`,
        `diverged` and `constant`; its attributes are those of the runs. Select from it by a dict, `.sel({"method": ["ER"]})`:
        `method` and `drop` are arguments of xarray's own `sel`. Raises ValueError for names that NetCDF does not allow, or
        of which two would be the same, and TypeError for labels that `save` would refuse, too.
        """
        dims = named_axes.dimensions(self.history, len(self.axes), self._measure)
        return labelled_arrays.dataset(self.axes, self.history, self._flags, dims, self.seconds, self.attributes)

    @staticmethod
    def from_xarray(dataset: Dataset) -> Runs:
        """The Runs of which `to_xarray` made a Dataset, also after a file, `xarray.load_dataset("runs.nc")`, or of a part of it.

        They are the same to the bit, but have no final states. Raises TypeError or ValueError for another Dataset, and for one that
        has lost an axis.
        """
        return Runs(*labelled_arrays.parts(dataset))

    def state(self, /, **labels: Label) -> Any:
        """The final state, as `init` makes them, of the run with some labels: `runs.state(seed=3, **{"opt.lr": 0.1})`.

        States are not stored: the run is pure, and is done once more, by itself. Raises ValueError for Runs that were loaded.
        """
        if self._replay is None:
            raise ValueError(
                "state: these Runs were loaded from a file and cannot run again; sweep again, or fold one run yourself."
            )
        part = self.at(**labels)
        several = next((name for name, values in part.axes.items() if len(values) > 1), None)
        if several is not None:
            raise ValueError(f"labels: the state is that of one run; give {several}=, one of {self.axes[several]}.")
        return part._replay and part._replay(0)

    def save(self, path: str | Path) -> None:
        """Write axes and histories to a safetensors file, as `cl.save` does.

        Raises TypeError, naming the axis, for a label that would not come back as it is: anything but a Python number, a string,
        None, or a list, tuple or dict of them.
        """
        header = runs_file.header(self.axes, self.history, self.seconds, self.attributes)
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

    def _ranking(
        self, metric: Metric | None, largest: bool | None, history: str | None, higher_is_better: bool | None
    ) -> tuple[over_seeds.Numbers, list[over_seeds.Point]]:
        """A metric of all runs, and the points that have sound ones, the best first; ValueError if that is not known."""
        numbers = self._numbers(metric, history, higher_is_better)
        return numbers, over_seeds.ranking(numbers, summaries.direction(numbers.summary, largest))

    @property
    def _measure(self) -> str:
        """The name of the history that the metrics are made of, or of the first that they could be made of."""
        return next(iter(summaries.candidates(self.history)), "accuracy")

    @property
    def _shown(self) -> Any:
        """The metrics that are shown where none is named."""
        return summaries.shown(self.history, len(self.axes))

    @property
    def _note(self) -> str:
        """How the hyperparameters were chosen, if that is known."""
        return chosen.note(self.attributes)

    @property
    def _flags(self) -> dict[str, Tensor]:
        return {"finished": self.finished, "diverged": self.diverged, "constant": self.constant}

    @property
    def _standing(self) -> over_seeds.Standing:
        return over_seeds.Standing(**self._flags)

    def _is_aligned(self, history: Tensor) -> bool:
        """Whether the entries of a history [*axes, time, T] are those after each of the T experiences, as far as is known."""
        known = (None, None), (1, history.shape[-1])
        return all((own.get("every"), own.get("experiences")) in known for own in joining.attributes_of_parts(self.attributes))

    def _is_after_each(self, history: Tensor) -> bool:
        """Whether the entries of a history [*axes, time, ...] are known to be those after each experience.

        In an online stream they are not, although there is one after each of its pieces: its test stream has fewer experiences.
        """
        time, R = len(self.axes), self.history.get(self._measure, history)
        known = (self.attributes.get("every"), self.attributes.get("experiences")) == (1, history.shape[time])
        return known and (R.ndim != time + 2 or R.shape[time] == R.shape[time + 1])

    def _summary(self, point: over_seeds.Point = ()) -> str:
        """How many runs of a point, or of all points, went wrong: "2 of 10 diverged, 3 of 10 unfinished"; empty if none did."""
        return over_seeds.counted(self._standing, point)

    def _numbers(
        self,
        metric: Metric | None = None,
        history: str | None = None,
        higher_is_better: bool | None = None,
        precise: bool = False,
    ) -> over_seeds.Numbers:
        """A metric of all runs; precise: in float64 and with its rounding, for tests that ties matter to."""
        summary = summaries.resolve(metric, history, higher_is_better, self.history, len(self.axes))
        value = self.history[summary.history]
        finite = value.isfinite().reshape(*self.shape, -1).all(-1) if value.numel() else torch.ones_like(self.finished)
        given = (summary, value, self.finished & (finite | ~self.diverged), self._is_aligned(value))
        if not precise:
            return over_seeds.Numbers(**self._flags, summary=summary, values=summaries.values(*given))
        values, rounding = summaries.precise(*given)
        return over_seeds.Numbers(**self._flags, summary=summary, values=values, rounding=rounding)


files.KINDS["runs"] = Runs

"""The pictures of Runs, and their report: what `cl.plots` draws of histories with named axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from cl_func import checks, plots
from cl_func.metrics.measures import KNOWN, measured
from cl_func.sweeps import figures, html_report, over_seeds, ranking, summaries
from cl_func.sweeps.named_axes import Axes
from cl_func.sweeps.summaries import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes as PlotAxes

    from cl_func.plots import Picture
    from cl_func.sweeps.runs import Runs


class RunsPictures:
    """The methods of Runs that draw; a class of its own for the sake of the file only."""

    if TYPE_CHECKING:  # what they use of Runs
        axes: Axes
        attributes: dict[str, Any]
        history: dict[str, Tensor]

        def __getitem__(self, name: str) -> Tensor: ...
        def curve(self, name: str) -> Tensor: ...
        def _numbers(
            self,
            metric: Metric | None = None,
            history: str | None = None,
            higher_is_better: bool | None = None,
            precise: bool = False,
        ) -> over_seeds.Numbers: ...
        @property
        def _measure(self) -> str: ...
        def _is_aligned(self, history: Tensor) -> bool: ...
        def _is_after_each(self, history: Tensor) -> bool: ...
        @property
        def _standing(self) -> over_seeds.Standing: ...

    def plot_timeline(
        self,
        history: str | None = None,
        *,
        higher_is_better: bool | None = None,
        labels: Sequence[str] | None = None,
        **options: Any,
    ) -> Picture:
        """Average accuracy over time, one line per point of the hyperparameter axes, with its confidence.

        Without accuracies, of the measure that stands for them, as in `metric`. Runs that diverged or are not finished are left
        out; the names of the lines say how many, and how many give constant answers. So it is in all pictures.

        history: another one, by time, or by time and test experience. higher_is_better: where that is not known, as in `metric`.
        labels: the names of the points, in order. options: those of `cl.plots.accuracy_timeline`, such as `ax=` and `title=`.
        Raises TypeError or ValueError for other histories and options.
        """
        found = self._measured(history, higher_is_better)
        if found[1].ndim > len(self.axes) and self._is_after_each(found[1]):
            options = {"xlabel": "experiences trained on", **options}
        return figures.timeline(self.axes, self._standing, *found, labels, options, self._is_aligned(found[1]))

    def plot_matrix(
        self,
        history: str | None = None,
        *,
        higher_is_better: bool | None = None,
        labels: Sequence[str] | None = None,
        **options: Any,
    ) -> Picture:
        """The mean accuracy matrix of every point; otherwise as `plot_timeline`, with the options of `cl.plots.matrices`."""
        found = self._measured(history, higher_is_better)
        if not self._is_aligned(found[1]):
            options = {"ylabel": "time", **options}
        return figures.matrix(self.axes, self._standing, *found, labels, options)

    def plot_forgetting(
        self,
        history: str | None = None,
        *,
        higher_is_better: bool | None = None,
        labels: Sequence[str] | None = None,
        **options: Any,
    ) -> Picture:
        """The accuracy on each test experience from when it was learned, a panel for each, and a line for each point.

        With one point there is one panel, with a line for each experience. Otherwise as `plot_timeline`, with the options of
        `cl.plots.forgetting_curves`.
        """
        found = self._measured(history, higher_is_better)
        if "seen" not in options and not self._is_aligned(found[1]):
            raise ValueError(
                "seen: the entries are not those after each experience; give how many experiences had been seen at each of them."
            )
        return figures.forgetting(self.axes, self._standing, *found, labels, options)

    def plot_classes(self, history: str = "class_accuracy", *, labels: Sequence[str] | None = None, **options: Any) -> Picture:
        """The mean accuracy of each class over time, for every point; the options are those of `cl.plots.class_heatmap`."""
        checks.text("history", history)
        R = self.history.get(history.replace("class_accuracy", "accuracy"))
        if R is not None and (R.shape[-1] != R.shape[-2] or not self._is_aligned(R)):  # there is not one entry for each experience
            options = {"xlabel": "time", **options}
        return figures.classes(self.axes, self._standing, history, self[history], labels, options)

    def plot_curve(self, name: str, *, labels: Sequence[str] | None = None, **options: Any) -> Picture:
        """The curve of a trace, as `curve` gives it, a line for each point; the options are those of `cl.plots.learning_curve`."""
        return figures.curve(self.axes, self._standing, name, self.curve(name), labels, options)

    def plot_grid(
        self,
        metric: Metric | None = None,
        *,
        history: str | None = None,
        higher_is_better: bool | None = None,
        largest: bool | None = None,
        **options: Any,
    ) -> Picture:
        """The mean of a metric over two hyperparameter axes as a heat map; the cells give the same counts of runs as `table`.

        largest: whether larger is better, where that is not known, as of a function of one's own.
        options: those of `cl.plots.hyperparameter_grid`, such as `ax=` and `title=`.
        Raises ValueError unless there are exactly two.
        """
        return figures.grid(self.axes, self._numbers(metric, history, higher_is_better), largest, options)

    def plot_scatter(
        self,
        metric: Metric | None = None,
        *,
        history: str | None = None,
        higher_is_better: bool | None = None,
        largest: bool | None = None,
        **options: Any,
    ) -> Picture:
        """A metric against each hyperparameter, of any grid; the options are those of `cl.plots.hyperparameter_scatter`.

        largest: as for `plot_grid`; where it is not known which way the metric is better, no point is marked as the best.
        """
        return figures.search(self.axes, self._numbers(metric, history, higher_is_better), self._scales, False, largest, options)

    def plot_parallel(
        self,
        metric: Metric | None = None,
        *,
        history: str | None = None,
        higher_is_better: bool | None = None,
        largest: bool | None = None,
        **options: Any,
    ) -> Picture:
        """All hyperparameters side by side, coloured by a metric; the options are those of `cl.plots.parallel_coordinates`.

        largest: as for `plot_grid`; where it is not known which way the metric is better, larger ones lie above.
        """
        return figures.search(self.axes, self._numbers(metric, history, higher_is_better), self._scales, True, largest, options)

    def _measured(self, history: str | None, higher_is_better: bool | None) -> tuple[str, Tensor, bool | None]:
        """A history by its name, or the usual one, and which way it is better."""
        checks.choice("higher_is_better", higher_is_better, True, False, None)
        name = summaries.default_history(self.history) if history is None else checks.text("history", history)
        if higher_is_better is None:
            higher_is_better = KNOWN.get(measured(name), True)
        return name, self[name], higher_is_better

    def report(
        self,
        path: str | Path,
        *,
        title: str = "Continual learning runs",
        metrics: Sequence[Metric] | None = None,
        command: str | None = None,
    ) -> Path:
        """Write one HTML page that needs no network: tables, pictures, what was run, seeds, machine, versions and the command.

        metrics: the columns of the table, as in `table`; by default the average accuracy, and forgetting where there is one.
        command: how to repeat it; by default the command line of this process, in a notebook none.
        Returns the path. Raises ValueError for a path that is not of an .html file in a folder, and as `table` does; ImportError
        without matplotlib.
        """
        checks.text("title", title)
        if command is not None:
            checks.text("command", command)
        return html_report.write(path, html_report.page(cast("Runs", self), title, metrics, command))

    def plot_critical_difference(
        self,
        metric: Metric | None = None,
        *,
        axis: str = "method",
        over: ranking.Over = "seeds",
        largest: bool | None = None,
        level: float = 0.05,
        title: str | None = None,
        ax: PlotAxes | None = None,
        history: str | None = None,
        higher_is_better: bool | None = None,
    ) -> Picture:
        """The average ranks of the points of an axis, such as methods, and which do not differ: `plots.critical_difference`.

        over: what ranks them, "seeds", each seed in each setting; or "settings", by the mean over the seeds, for many settings.
        largest: whether larger is better, where that is not known. A seed with which one of them diverged, is not finished or has
            NaN is left out for all, which the title says. The others are those of `metric` and of `plots.critical_difference`.
        Raises ValueError where fewer than two blocks are left, naming what has no number, and where it is not known which way the
        metric is better.
        """
        numbers = self._numbers(metric, history, higher_is_better, precise=True)
        scores, left_out = ranking.blocks(numbers, self.axes, axis, over)
        largest = summaries.direction(numbers.summary, largest)
        if left_out and len(next(iter(scores.values()))) < 2:
            raise ValueError(f"plot_critical_difference: {ranking.too_few(numbers, self.axes, axis, left_out)}")
        if left_out:
            words = f"{left_out} left out, with which some have no number"
            title = f"{title}\n{words}" if title else words
        return plots.critical_difference(scores, largest=largest, level=level, title=title, ax=ax)

    @property
    def _scales(self) -> dict[str, str]:
        """What the paths of a random grid were drawn on, by path."""
        found = self.attributes.get("scales")
        return found if isinstance(found, dict) else {}

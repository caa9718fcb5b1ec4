"""What is drawn of a search over hyperparameters, read back from the Axes."""

from __future__ import annotations

import functools
import math

import pytest
import registry
import torch
from made_runs import make, swept
from matplotlib.figure import Figure
from test_plots import assert_apart

import cl_func as cl
from cl_func import metrics, plots

NAN = math.nan
POINTS = {"opt.lr": [0.001, 0.01, 0.1, 1.0], "alpha": [0.1, 0.4, 0.7, 0.9], "act": ["relu", "tanh", "relu", "relu"]}
VALUES = torch.tensor([[0.5, 0.6], [0.8, 0.9], [0.7, NAN], [NAN, NAN]])
MEANS = [0.55, 0.85, 0.7]


def dots(panel):
    """The dots of a panel, {x: (y, colour)}, the x of the crosses, and the bars, {x: (low, high)}."""
    found, crosses, bars = {}, [], {}
    for line in panel.lines:
        if line.get_marker() == "x":
            crosses += list(line.get_xdata())
        else:
            found |= {x: (y, line.get_color()) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}
    for bar in panel.collections:
        bars |= {segment[0][0]: tuple(segment[:, 1]) for segment in bar.get_segments()}
    return found, crosses, bars


def test_hyperparameter_scatter():
    ax = plots.hyperparameter_scatter(POINTS, VALUES, "average_accuracy", title="3 of 8 diverged")
    assert [*ax.panels] == [*POINTS]
    for (name, panel), x in zip(ax.panels.items(), ([0.001, 0.01, 0.1], [0.1, 0.4, 0.7]), strict=False):
        found, crosses, bars = dots(panel)
        assert sorted(found) == pytest.approx(x)
        assert [found[key][0] for key in sorted(found)] == pytest.approx(MEANS)
        assert [found[key][1] for key in sorted(found)] == [plots.PALETTE[0], plots.PALETTE[1], plots.PALETTE[0]]
        assert crosses == [POINTS[name][-1]]
        mean, half = metrics.mean_ci(VALUES[0].double())
        assert bars[min(bars)] == pytest.approx((float(mean - half), float(mean + half)))
        assert bars[max(bars)] == pytest.approx((0.7, 0.7))  # of one run nothing is known of the spread
        assert panel.get_xlabel() == name
        assert panel.get_ylim() == (0, 1)
    assert [panel.get_xscale() for panel in ax.panels.values()] == ["log", "linear", "linear"]
    assert [panel.get_ylabel() for panel in ax.panels.values()] == ["average accuracy", "", ""]
    act = ax.panels["act"]
    assert [tick.get_text() for tick in act.get_xticklabels()] == ["relu", "tanh"]
    assert dots(act)[1] == [0]
    assert ax.figure.get_suptitle() == "3 of 8 diverged"
    assert_apart(ax)


def test_the_scale_of_a_hyperparameter_is_the_one_on_which_it_is_even():
    key = cl.key(3)
    (_, points), *_ = cl.random_grid(20, {"a": cl.log(1e-4, 1), "b": cl.uniform(0, 1), "c": cl.integers(1, 40)}, key=key).axes
    columns = {path: [point[path] for point in points] for path in "abc"}
    ax = plots.hyperparameter_scatter(columns, torch.rand(20), "average_accuracy")
    assert [panel.get_xscale() for panel in ax.panels.values()] == ["log", "linear", "linear"]
    ax = plots.hyperparameter_scatter(columns, torch.rand(20), "average_accuracy", log=["b"])
    assert [panel.get_xscale() for panel in ax.panels.values()] == ["linear", "log", "linear"]
    with pytest.raises(ValueError, match="log: a logarithmic scale needs values above 0"):
        plots.hyperparameter_scatter({"a": [0.0, 1.0]}, torch.rand(2), "average_accuracy", log=["a"])


COLUMNS = {
    "few": [0.02, 0.1, 0.3],
    "two": [0.1, 1e6],
    "powers": [0.001, 0.01, 0.1],
    "close": [1.0, 1.01, 1.02, 2.0],
    "one": [0.3],
    "digits": [0.012345, 0.054321, 0.123456],
    "many": torch.logspace(-2, -0.3, 12).tolist(),
    "wide": torch.logspace(-9, 2, 12).tolist(),
    "whole": list(range(100, 2100, 160)),
}


@pytest.mark.parametrize("panels", [1, 2, 4])
@pytest.mark.parametrize("name", COLUMNS)
def test_the_labels_of_a_scale_have_room(name, panels):
    column = COLUMNS[name]
    ax = plots.hyperparameter_scatter({f"{name} {i}": column for i in range(panels)}, torch.rand(len(column)), "average_accuracy")
    assert_apart(ax)
    panel = next(iter(ax.panels.values()))
    labels = [tick.get_text() for tick in panel.get_xticklabels(which="both") if tick.get_text()]
    if name in ("few", "two", "powers", "one"):
        assert [float(label) for label in labels] == pytest.approx(sorted(column))
    assert panel.get_xscale() == ("log" if name in ("few", "two", "powers", "many", "wide") else "linear")


def test_of_forgetting_and_errors_the_lowest_is_the_best():
    for metric, better in (("forgetting", None), ("loss", False)):
        ax = plots.hyperparameter_scatter({"a": [1.0, 2.0, 3.0]}, torch.tensor([0.3, 0.1, 0.2]), metric, higher_is_better=better)
        found, _, _ = dots(ax.panels["a"])
        assert found[2.0][1] == plots.PALETTE[1]
        assert {found[x][1] for x in (1.0, 3.0)} == {plots.PALETTE[0]}


def test_parallel_coordinates():
    ax = plots.parallel_coordinates(POINTS, VALUES, "average_accuracy", title="t")
    drawn = [line for line in ax.lines if len(line.get_xdata()) == 3]
    heights = {tuple(round(y, 6) for y in line.get_ydata()): line for line in drawn}
    wanted = [(0, 0, 0), (1 / 3, 0.375, 1), (2 / 3, 0.75, 0), (1, 1, 0)]
    assert sorted(heights) == sorted(tuple(round(float(y), 6) for y in point) for point in wanted)
    lost = heights[1, 1, 0]
    assert lost.get_linestyle() == ":"
    order = sorted((line for line in drawn if line is not lost), key=lambda line: line.get_zorder())
    assert [line.get_ydata()[0] for line in order] == pytest.approx([0, 2 / 3, 1 / 3])  # the best last, on top
    assert len({tuple(line.get_color()) for line in order}) == 3
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [*POINTS]
    texts = {(round(text.xy[0]), round(text.xy[1], 3)): text.get_text() for text in ax.texts}
    assert (texts[0, 0.0], texts[0, 0.5], texts[0, 1.0]) == ("0.001", "0.0316", "1")
    assert (texts[1, 0.0], texts[1, 0.5], texts[1, 1.0]) == ("0.1", "0.5", "0.9")
    assert (texts[2, 0.0], texts[2, 1.0]) == ("relu", "tanh")
    bar = ax.figure.axes[1]
    assert (bar.get_ylabel(), bar.get_ylim()) == ("average accuracy", (0, 1))
    assert_apart(ax)


def test_every_point_has_a_number():
    ax = plots.hyperparameter_scatter(POINTS, torch.tensor([0.2, 0.4, 0.3, 0.1]), "average_accuracy")
    assert_apart(ax)
    assert all(not dots(panel)[1] for panel in ax.panels.values())


def test_no_point_has_a_number():
    lost = torch.full((4, 2), NAN)
    for draw in (plots.hyperparameter_scatter, plots.parallel_coordinates):
        for metric in ("average_accuracy", "forgetting"):
            assert_apart(draw(POINTS, lost, metric))


def test_searches_in_given_axes():
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    assert plots.hyperparameter_scatter(POINTS, VALUES, "average_accuracy", ax=left, title="a") is left
    assert plots.parallel_coordinates(POINTS, VALUES, "average_accuracy", ax=right, title="b") is right
    assert_apart(figure)


# ---------------------------------------------------------------- Runs


def random_runs():
    grid = cl.random_grid(6, {"opt.lr": cl.log(1e-3, 1), "alpha": cl.uniform(0, 1)}, key=cl.key(0))
    ((name, points),) = grid.axes
    runs = make({name: [dict(point) for point in points], "seed": [0, 1, 2]})
    runs.history["loss"] = torch.ones(6, 3, 3, 3)
    runs.history["loss"][2] = NAN
    runs.attributes["scales"] = dict(grid.scales)
    return runs


def test_plot_scatter():
    runs = random_runs()
    ax = runs.plot_scatter()
    assert [*ax.panels] == ["opt.lr", "alpha"]
    labels = runs.axes["opt.lr & alpha"]
    mean, _ = runs.mean_ci()
    for path, panel in ax.panels.items():
        found, crosses, _ = dots(panel)
        assert crosses == [labels[2][path]]
        for i, label in enumerate(labels):
            assert i == 2 or found[label[path]][0] == pytest.approx(float(mean[i]))
    assert ax.figure.get_suptitle() == "3 of 18 diverged"
    assert [panel.get_xscale() for panel in ax.panels.values()] == ["log", "linear"]
    ax = swept().plot_scatter("forgetting", title="two axes")
    assert [*ax.panels] == ["opt.lr", "lwf.strength"]
    assert ax.figure.get_suptitle() == "two axes"
    with pytest.raises(ValueError, match="these runs have no hyperparameter axes"):
        make({"seed": [0, 1]}).plot_scatter()


def test_a_sweep_remembers_what_its_hyperparameters_were_drawn_on():
    ranges = {"opt.lr": cl.log(0.1, 0.11), "opt.momentum": cl.uniform(0.01, 0.9)}
    grid = cl.random_grid(3, ranges, key=cl.key(0))
    assert grid.scales == (("opt.lr", "log"), ("opt.momentum", "uniform"))
    strategy = cl.strategies.naive(registry.MODEL, registry.OPTIMIZERS["sgd_momentum"], batch_size=5)
    runs = cl.sweep(strategy, registry.BENCH, seeds=1, hparams=grid, compile=False, progress=False)
    assert runs.attributes["scales"] == {"opt.lr": "log", "opt.momentum": "uniform"}
    assert [panel.get_xscale() for panel in runs.plot_scatter().panels.values()] == ["log", "linear"]
    cl.testing.check_round_trip(runs)


def test_plot_parallel():
    runs = random_runs()
    ax = runs.plot_parallel("average_loss")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["opt.lr", "alpha"]
    assert sum(line.get_linestyle() == ":" for line in ax.lines) == 1
    assert ax.get_title() == "3 of 18 diverged"
    assert ax.figure.axes[1].get_ylabel() == "average loss"


def best_of(runs, metric, **options):
    """The value at the dot that is marked as the best, if there is one."""
    panel = runs.plot_scatter(metric, **options).panels["opt.lr"]
    return [
        float(line.get_xdata()[0]) for line in panel.lines if line.get_color() == plots.lines.PALETTE[1] and len(line.get_xdata())
    ]


def forgetful(name):
    """Runs of which the first forgets least, by nearly nothing, and the last most."""
    R = torch.full((3, 2, 3, 3), 0.9)
    R[0, :, 2, :2], R[1, :, 2, 0], R[2, :, 2, 0] = torch.tensor([0.88, 0.95]), 0.5, 0.1
    return cl.Runs({"opt.lr": [0.01, 0.1, 1.0], "seed": [0, 1]}, {name: R}, torch.ones(3, 2, dtype=torch.bool), 1.0)


@pytest.mark.parametrize("name", ["accuracy", "valid.accuracy", "0.accuracy"])
def test_a_metric_of_one_of_several_evaluations_is_drawn_as_any(name):
    """What is best and the scale depend on the metric, not on the evaluation that stands in brackets behind it."""
    runs = forgetful(name)
    assert best_of(runs, "forgetting") == [runs.best("forgetting")["opt.lr"]] == [0.01]
    for metric in ("forgetting", "backward_transfer"):
        low, high = runs.plot_scatter(metric).panels["opt.lr"].get_ylim()
        values = runs.metric(metric)
        assert low < values.min() < values.max() < high
    lines = sorted(runs.plot_parallel("forgetting").lines, key=lambda line: line.get_zorder())
    assert [float(line.get_ydata()[0]) for line in lines] == [1.0, 0.5, 0.0]  # the one that forgets least lies above


def worst_drop(R):
    return (R.max(0).values - R[-1]).max()


def test_no_point_is_best_where_it_is_not_known_which_way():
    runs = forgetful("accuracy")
    assert best_of(runs, worst_drop) == []
    assert best_of(runs, worst_drop, largest=False) == [0.01]
    assert best_of(runs, worst_drop, largest=True) == [1.0]
    assert best_of(runs, functools.partial(cl.metrics.forgetting, seen=[1, 2, 3])) == [0.01]
    top = max(runs.plot_parallel(worst_drop, largest=False).lines, key=lambda line: line.get_zorder())
    assert top.get_ydata()[0] == 0.0
    with pytest.raises(ValueError, match="largest: expected True, False or None"):
        runs.plot_scatter(worst_drop, largest="yes")

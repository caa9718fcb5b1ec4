"""What a picture says is what the data are: every plotting function is read back from its Axes (ticks, cells, colours, names)."""

from __future__ import annotations

import dataclasses
import inspect
import math

import numpy as np
import pytest
import test_curves
import test_ranks
import test_searches
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import swept
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from test_plots import assert_apart

import cl_func as cl
from cl_func import metrics, plots
from cl_func.plots.end_labels import EndLabels
from cl_func.sweeps.runs import METRICS

SCALES = {"accuracy": (0, 1), "average accuracy": (0, 1), "forgetting": (-1, 1), "backward transfer": (-1, 1)}
law = settings(max_examples=12, deadline=None)


def words(text):
    """A text without its line breaks, which a title may have anywhere."""
    return " ".join(text.split())


def maps(picture):
    """Each heat map of a figure as {(row, column): (number, text)} by the labels of its ticks, and what its colour bar says."""
    figure = picture.figure
    FigureCanvasAgg(figure).draw()
    *panels, bar = [ax for ax in figure.axes if ax.axison]
    found = {}
    for ax in panels:
        image = ax.images[0]
        assert image.get_clim() == SCALES.get(bar.get_ylabel(), (0, 1)) == bar.get_ylim()
        left, right, bottom, top = image.get_extent()
        values = np.ma.filled(image.get_array().astype(float), math.nan)
        assert np.nanmin(values, initial=0) >= image.norm.vmin
        assert np.nanmax(values, initial=0) <= image.norm.vmax
        centres = [
            start + (np.arange(n) + 0.5) * (end - start) / n
            for n, start, end in zip(values.shape, (top, left), (bottom, right), strict=True)
        ]
        ticks = []
        for axis, middle in zip((ax.yaxis, ax.xaxis), centres, strict=True):
            assert axis.get_ticklocs().tolist() == pytest.approx(middle.tolist())  # one in the middle of each row and column
            ticks.append([label.get_text() for label in axis.get_ticklabels()])
        texts = {tuple(text.get_position()): text.get_text() for text in ax.texts}
        cells = {}
        for (i, j), value in np.ndenumerate(values):
            cells[ticks[0][i], ticks[1][j]] = value, texts.pop((round(centres[1][j]), round(centres[0][i])), "")
        assert not texts
        found[words(ax.get_title())] = cells, ax.get_ylabel(), ax.get_xlabel()
    return found, bar.get_ylabel()


def curves(ax):
    """The lines of a timeline by what the legend, or the text at their ends, calls them: {name: (times, values)}."""
    FigureCanvasAgg(ax.figure).draw()
    legend, found = ax.get_legend(), {}
    if legend is None:
        return labelled_ends(ax)
    for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
        look = handle.get_color(), handle.get_linestyle(), handle.get_marker()
        (line,) = [line for line in ax.lines if (line.get_color(), line.get_linestyle(), line.get_marker()) == look]
        found[text.get_text()] = list(line.get_xdata()), list(line.get_ydata())
        low, high = ax.get_ylim()
        assert all(low <= y <= high for y in line.get_ydata())
    assert len(found) == len(legend.get_texts())
    return found


def labelled_ends(ax):
    """The same of names that stand at the ends of lines: each is led to the last point of its line."""
    (labels,) = ax.findobj(EndLabels)
    lines, found = list(ax.lines), {}
    for text, leader in zip(labels.texts, labels.leaders, strict=True):
        if not len(leader.get_xdata()):
            found[text.get_text()] = [], []
            continue
        start = ax.transData.inverted().transform(leader.get_xydata()[0])
        ink = to_rgb(text.get_color())
        (line,) = [
            line for line in lines if same_point(start, line) and hue(ink) == pytest.approx(hue(to_rgb(line.get_color())), abs=0.02)
        ]
        lines.remove(line)
        found[text.get_text()] = list(line.get_xdata()), list(line.get_ydata())
    assert not lines
    return found


def same_point(start, line):
    return start == pytest.approx([line.get_xdata()[-1], line.get_ydata()[-1]])


def hue(rgb):
    return [part / (max(rgb) or 1) for part in rgb]  # what remains of a colour that is darkened


def same_cells(cells, values, rows, columns):
    """The cells are these values under these labels, and each says its number; a value that is NaN has none."""
    assert [*cells] == [(row, column) for row in rows for column in columns]
    for (number, text), value in zip(cells.values(), values.flatten().tolist(), strict=True):
        assert number == pytest.approx(value, nan_ok=True)
        assert text == ("" if math.isnan(value) else f"{value:z.2f}")


def ones(n):
    return [str(i + 1) for i in range(n)]


names = st.text("ab_.= 1", min_size=1, max_size=8).filter(lambda name: name == words(name))
unit = st.integers(0, 10**6).map(lambda seed: torch.Generator().manual_seed(seed))
sizes = st.integers(1, 5)


@law
@given(generator=unit, time=sizes, n=sizes, seeds=st.integers(1, 3), title=names)
def test_matrix(generator, time, n, seeds, title):
    R = torch.rand(seeds, time, n, generator=generator)
    found, bar = maps(plots.matrix(R, title=title))
    ((cells, ylabel, xlabel),) = found.values()
    same_cells(cells, R.double().mean(0), ones(time), ones(n))
    assert (bar, [*found], xlabel) == ("accuracy", [title], "test experience")
    assert ylabel == ("after experience" if time == n else "time")


@law
@given(generator=unit, n=sizes, titles=st.lists(names, min_size=1, max_size=5, unique=True), missing=st.booleans())
def test_matrices(generator, n, titles, missing):
    Rs = {title: torch.rand(2, n, n, generator=generator) for title in titles}
    absent = ["not there"] if missing else []
    found, bar = maps(plots.matrices(Rs, missing=absent))
    assert [*found] == [*titles, *absent]
    assert bar == "accuracy"
    for title, (cells, _, _) in found.items():
        same_cells(cells, Rs[title].double().mean(0) if title in Rs else torch.full((n, n), math.nan), ones(n), ones(n))


@law
@given(generator=unit, n=st.integers(2, 5), seeds=st.integers(1, 3))
def test_forgetting_matrix(generator, n, seeds):
    R = torch.rand(seeds, n, n, generator=generator)
    found, bar = maps(plots.forgetting_matrix(R))
    ((cells, _, _),) = found.values()
    expected = metrics.forgetting_matrix(R).double().mean(0)
    same_cells(cells, torch.where(torch.ones(n, n).tril(-1) > 0, expected, math.nan), ones(n), ones(n))
    assert bar == "forgetting"


@law
@given(generator=unit, time=sizes, n=sizes, seeds=st.integers(1, 3), empty=st.booleans(), title=names)
def test_class_heatmap(generator, time, n, seeds, empty, title):
    values = torch.rand(seeds, time, n, generator=generator)
    if empty:
        values[:, :, 0] = math.nan  # a class without test rows
    mean = values.double().mean(0).T
    rows = [f"a{i}" for i in range(n)]
    ((cells, ylabel, xlabel),) = maps(plots.class_heatmap(values, title=title, labels=rows))[0].values()
    same_cells(cells, mean, rows, ones(time))
    assert (ylabel, xlabel) == ("class", "after experience")
    found, bar = maps(plots.class_heatmap({title: values}, missing=["not there"]))
    assert [*found] == [title, "not there"]
    same_cells(found[title][0], mean, [str(i) for i in range(n)], ones(time))
    same_cells(found["not there"][0], torch.full_like(mean, math.nan), [str(i) for i in range(n)], ones(time))
    assert bar == "accuracy"


@law
@given(data=st.data(), generator=unit, rows=sizes, columns=sizes, metric=st.sampled_from(METRICS))
def test_hyperparameter_grid(data, generator, rows, columns, metric):
    low = SCALES.get(metric.replace("_", " "), (0, 1))[0]
    values = low + (1 - low) * torch.rand(rows, columns, generator=generator)
    values[0, 0] = data.draw(st.sampled_from([low, 1.0, math.nan]))
    labels = [data.draw(st.lists(names, min_size=n, max_size=n, unique=True)) for n in (rows, columns)]
    found, bar = maps(plots.hyperparameter_grid(values, metric, rows=("x", labels[0]), columns=("y", labels[1])))
    ((cells, ylabel, xlabel),) = found.values()
    same_cells(cells, values, *labels)
    assert (bar, ylabel, xlabel) == (metric.replace("_", " "), "x", "y")


@law
@given(generator=unit, time=sizes, titles=st.lists(names, min_size=1, max_size=8, unique=True), missing=st.booleans())
def test_accuracy_timeline(generator, time, titles, missing):
    given_ = {title: torch.rand(3, time, generator=generator) for title in titles}
    absent = ["not there"] if missing else []
    found = curves(plots.accuracy_timeline(given_, missing=absent))
    assert sorted(found) == sorted([*titles, *absent])
    for title, values in given_.items():
        assert found[title][0] == [*range(1, time + 1)]
        assert found[title][1] == pytest.approx(values.double().mean(0).tolist())
    assert all(found[title] == ([], []) for title in absent)


@pytest.mark.parametrize("metric", ["forgetting", "backward_transfer"])
@pytest.mark.parametrize("outside", [-1.1, 1.1])
def test_what_is_outside_of_a_scale_is_refused(metric, outside):
    for name, value in ((metric, outside), ("average_accuracy", -0.19)):
        with pytest.raises(ValueError, match=f"values: {name} lies in"):
            plots.hyperparameter_grid(torch.tensor([[value]]), name, rows=("x", ["1"]), columns=("y", ["1"]))


# ---------------------------------------------------------------- Runs


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("size", [(2, 3), (1, 4), (5, 2)])
def test_plot_grid(metric, size):
    runs = swept(*size)
    runs.finished[0, 1, 2:] = False
    runs["accuracy"][0, 1, 2:] = math.nan
    figure = runs.plot_grid(metric)
    found, bar = maps(figure)
    ((title, (cells, ylabel, xlabel)),) = found.items()
    mean = runs.mean_ci(metric)[0]
    assert (ylabel, xlabel, bar) == ("opt.lr", "lwf.strength", metric.replace("_", " "))
    assert [*cells] == [(f"{10.0**-i:g}", f"{0.5 * 2**j:g}") for i in range(size[0]) for j in range(size[1])]
    notes = {}
    for where, (number, text) in zip(np.ndindex(*size), cells.values(), strict=True):
        assert number == pytest.approx(mean[where].item(), nan_ok=True)
        first, _, notes[where] = ("\n" + text if mean[where].isnan() else text).partition("\n")
        assert first == ("" if mean[where].isnan() else f"{mean[where]:z.2f}")
    notes = {where: words(note) for where, note in notes.items() if note}
    bad = (size[0] - 1, size[1] - 2)
    if bad == (0, 0):
        assert notes[0, 0] == "4 of 4 diverged"
    else:
        assert notes[0, 0] == "1 of 4 diverged 1 of 4 constant answers"
        assert notes[bad].startswith("4 of 4 diverged" if bad != (0, 1) else "")
    assert "2 of 4 unfinished" in notes[0, 1]
    assert title == runs._summary()
    assert "diverged" in title
    assert_apart(figure)


def test_a_backward_transfer_below_0_is_shown_as_it_is():
    runs = swept()
    runs["accuracy"][:] = torch.tensor([[0.9, 0.0, 0.0], [0.5, 0.8, 0.0], [0.4, 0.6, 0.7]])
    ax = runs.plot_grid("backward_transfer")
    assert {text.get_text().split("\n")[0] for text in ax.texts} == {"-0.35", "4 of 4"}


def test_a_large_grid_has_a_label_at_every_other_cell():
    runs = swept(2, 30, 2)
    ax = runs.plot_grid()
    FigureCanvasAgg(ax.figure).draw()
    assert ax.get_xticks().tolist() == [*range(1, 31, 2)]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [f"{0.5 * 2**i:g}" for i in range(0, 30, 2)]
    assert len(ax.texts) == 59  # the numbers; there is no room for what is noted, and the title says it
    assert ax.get_title() == "3 of 120 diverged, 1 of 120 constant answers"
    assert_apart(ax)


def expected_names(runs):
    return [
        f"opt.lr={lr:g}, lwf.strength={s:g}" + (f" ({summary})" if (summary := runs._summary((i, j))) else "")
        for i, lr in enumerate(runs.axes["opt.lr"])
        for j, s in enumerate(runs.axes["lwf.strength"])
    ]


def test_plot_timeline():
    runs = swept()
    found = curves(runs.plot_timeline())
    assert sorted(found) == sorted(expected_names(runs))
    assert [*found][-1] == "opt.lr=0.1, lwf.strength=1 (4 of 4 diverged)"
    assert "opt.lr=1, lwf.strength=0.5 (1 of 4 diverged, 1 of 4 constant answers)" in found
    for name, where in zip(expected_names(runs), np.ndindex(2, 3), strict=True):
        sound = runs["accuracy"][where][~runs.diverged[where]]
        wanted = metrics.average_accuracy(sound.double()).mean(0).tolist() if len(sound) else []
        assert found[name][1] == pytest.approx(wanted)


def test_plot_matrix():
    runs = swept()
    figure = runs.plot_matrix()
    found, bar = maps(figure)
    assert bar == "accuracy"
    assert sorted(found) == sorted(expected_names(runs))
    for name, where in zip(expected_names(runs), np.ndindex(2, 3), strict=True):
        sound = runs["accuracy"][where][~runs.diverged[where]].double()
        same_cells(found[name][0], sound.mean(0), ones(3), ones(3))
    assert_apart(figure)


def test_pictures_of_runs_that_all_diverged():
    runs = swept()
    gone = dataclasses.replace(runs, history={**runs.history, "loss": torch.full_like(runs["loss"], math.nan)})
    assert all(line == ([], []) for line in curves(gone.plot_timeline()).values())
    assert all(math.isnan(number) for cells, _, _ in maps(gone.plot_matrix())[0].values() for number, _ in cells.values())
    found, _ = maps(gone.plot_grid())
    assert all(words(text) == "4 of 4 diverged" for cells, _, _ in found.values() for _, text in cells.values())


def test_every_plotting_function_is_read_back():
    public = [
        name
        for name, value in vars(plots).items()
        if inspect.isfunction(value) and name[0] != "_" and value.__module__.startswith(plots.__name__)
    ]
    assert {"matrix", "forgetting_curves", "parallel_coordinates"} <= {*public}
    tests = globals().keys() | vars(test_curves).keys() | vars(test_searches).keys() | vars(test_ranks).keys()
    assert {f"test_{name}" for name in [*public, *(name for name in dir(cl.Runs) if name.startswith("plot_"))]} - tests == set()

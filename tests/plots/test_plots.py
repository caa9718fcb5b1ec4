"""The figures: what is drawn (lines, bands, numbers, labels), that nothing overlaps, and that nothing global is touched."""

import itertools
import math
import pickle
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from cl_func import metrics, plots
from cl_func.plots.end_labels import EndLabels, apart


def runs(seeds, n, forgetting=0.8):
    """Accuracy matrices [seeds, n, n] that look like real ones."""
    after = torch.arange(n)
    since = after[:, None] - after
    noise = 0.03 * torch.randn(seeds, n, n, generator=torch.Generator().manual_seed(n))
    return (torch.where(since < 0, 0.05, 0.95 - forgetting * since / n) + noise).clamp(0, 1)


CURVES = {"naive": metrics.average_accuracy(runs(6, 5, 1.2)), "ER": metrics.average_accuracy(runs(6, 5, 0.3))}


def drawn(ax):
    FigureCanvasAgg(ax.figure).draw()
    return ax.figure


def numbers(ax):
    """{(row, column): text} of the cells, counted from 1."""
    return {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in ax.texts}


def shown_texts(figure):
    for ax in figure.findobj(Axes):
        yield from (ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts)
        for labels in ax.findobj(EndLabels):
            yield from labels.texts
        if ax.get_legend():
            yield from ax.get_legend().get_texts()
        if ax.axison:
            for axis in (ax.xaxis, ax.yaxis):
                low, high = sorted(axis.get_view_interval())
                for tick in axis.get_major_ticks():
                    if low <= tick.get_loc() <= high:
                        yield from (tick.label1, tick.label2)


def assert_apart(figure):
    """No two texts of the figure overlap, and none is cut off."""
    figure = figure if isinstance(figure, Figure) else figure.figure
    FigureCanvasAgg(figure).draw()
    boxes = [(t.get_text(), t.get_window_extent()) for t in shown_texts(figure) if t.get_text() and t.get_visible()]
    assert len(boxes) > 3
    for i, (name, box) in enumerate(boxes):
        assert figure.bbox.padded(1).contains(box.x0, box.y0), name
        assert figure.bbox.padded(1).contains(box.x1, box.y1), name
        for other, second in boxes[:i]:
            width = min(box.x1, second.x1) - max(box.x0, second.x0)
            height = min(box.y1, second.y1) - max(box.y0, second.y0)
            assert width < 1 or height < 1, (name, other)


# ---------------------------------------------------------------- accuracy_timeline


def test_timeline_draws_mean_lines_and_t_bands():
    ax = plots.accuracy_timeline(CURVES, confidence=0.9)
    assert ax.figure.axes == [ax]
    bands = [c for c in ax.collections if isinstance(c, PolyCollection)]
    assert len(ax.lines) == len(bands) == 2
    for line, band, values in zip(ax.lines, bands, CURVES.values(), strict=True):
        mean, half = metrics.mean_ci(values.double(), 0.9)
        assert list(line.get_xdata()) == [1, 2, 3, 4, 5]
        assert list(line.get_ydata()) == pytest.approx(mean.tolist())
        vertices = band.get_paths()[0].vertices
        for i in range(5):
            heights = [y for x, y in vertices if x == i + 1]
            assert min(heights) == pytest.approx((mean - half)[i].item())
            assert max(heights) == pytest.approx((mean + half)[i].item())


def test_timeline_labels_and_scales():
    figure = drawn(plots.accuracy_timeline(CURVES, xlabel="tasks", ylabel="A"))
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_ylim()) == ("tasks", "A", (0, 1))
    assert all(float(tick).is_integer() for tick in ax.get_xticks())
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["ER", "naive"]  # in the order of the lines' ends
    default = plots.accuracy_timeline(CURVES)
    assert (default.get_xlabel(), default.get_ylabel()) == ("experiences trained on", "average accuracy")
    assert_apart(figure)


def test_timeline_of_one_run_has_no_band():
    for values in (torch.tensor([0.9, 0.8, 0.7]), torch.tensor([[0.9, 0.8, 0.7]])):
        ax = plots.accuracy_timeline({"ER": values})
        assert len(ax.lines) == 1
        assert not [c for c in ax.collections if isinstance(c, PolyCollection)]


def test_timelines_of_different_lengths_and_many_names_stay_apart():
    many = {f"method {i}": torch.linspace(0.9, 0.1 * i, 3 + i).expand(2, -1) for i in range(10)}
    figure = drawn(plots.accuracy_timeline(many))
    lines = figure.axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 10
    assert figure.axes[0].get_xlim()[1] >= 12
    assert_apart(figure)


def test_timeline_of_a_single_time():
    ax = plots.accuracy_timeline({"ER": torch.tensor([[0.5], [0.6]])})
    assert_apart(ax)
    assert all(float(tick).is_integer() for tick in ax.get_xticks())


# ---------------------------------------------------------------- heat maps


def test_matrix_writes_rounded_numbers_into_the_cells():
    R = runs(1, 4)[0]
    figure = plots.matrix(R, title="ER").figure
    ax, bar = figure.axes
    assert numbers(ax) == {(i + 1, j + 1): f"{R[i, j]:.2f}" for i in range(4) for j in range(4)}
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("test experience", "after experience", "ER")
    assert ax.images[0].get_clim() == (0, 1)
    assert bar.get_ylabel() == "accuracy"
    assert_apart(figure)


def test_matrix_draws_the_mean_over_the_seeds():
    R = runs(5, 3)
    ax = plots.matrix(R)
    assert ax.images[0].get_array().tolist() == R.double().mean(0).tolist()
    assert numbers(ax)[3, 1] == f"{R[:, 2, 0].mean():.2f}"


def test_ink_is_readable_on_every_colour():
    def luminance(color):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    ramp = torch.linspace(0, 1, 20).expand(2, 20)
    for ax in (plots.matrix(ramp), plots.forgetting_matrix(torch.cat([torch.ones(1, 20), ramp[1:]]), seen=[20, 20])):
        image = ax.images[0]
        for text in ax.texts:
            x, y = (int(v) - 1 for v in text.get_position())
            back = luminance(image.cmap(image.norm(image.get_array()[y, x]))[:3])
            ink = luminance(text.get_color())
            assert (max(ink, back) + 0.05) / (min(ink, back) + 0.05) >= 4.5  # WCAG 2, level AA


def test_numbers_are_left_out_where_cells_are_too_small():
    R = runs(1, 100)[0]
    figure = drawn(plots.matrix(R))
    assert not figure.axes[0].texts
    assert len(figure.axes[0].get_xticks()) < 20
    assert len(plots.matrix(runs(1, 20)[0]).texts) == 400


def test_a_long_timeline_is_drawn_in_a_readable_shape():
    ax = plots.matrix(runs(1, 200)[0][:, ::20])
    assert ax.get_aspect() == "auto"
    assert_apart(ax)


def test_matrices_share_one_colour_bar():
    figure = plots.matrices({name: runs(3, 5, f) for name, f in (("naive", 1.0), ("ER", 0.4), ("LwF", 0.7))}).figure
    maps = [ax for ax in figure.axes if ax.images]
    assert len([ax for ax in figure.axes if ax.axison]) == 4  # three and the bar
    assert [ax.get_title() for ax in maps] == ["naive", "ER", "LwF"]
    assert [ax.get_ylabel() for ax in maps] == ["after experience", "", ""]
    assert {ax.get_xlabel() for ax in maps} == {"test experience"}
    assert {ax.images[0].get_clim() for ax in maps} == {(0, 1)}
    assert all(len(ax.texts) == 25 for ax in maps)
    assert_apart(figure)


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (4, (1, 4)), (5, (2, 3)), (9, (3, 3))])
def test_matrices_fill_a_balanced_grid(count, shape):
    figure = plots.matrices({f"m{i}": runs(1, 3) for i in range(count)}).figure
    maps = [ax for ax in figure.axes if ax.images]
    assert len(maps) == count
    assert maps[0].get_subplotspec().get_gridspec().get_geometry() == shape
    assert_apart(figure)


def test_forgetting_matrix_shows_what_can_be_forgotten():
    R = runs(4, 4)
    expected = metrics.forgetting_matrix(R).double().mean(0)
    figure = plots.forgetting_matrix(R, title="ER").figure
    ax, bar = figure.axes
    assert numbers(ax) == {(i + 1, j + 1): f"{expected[i, j]:z.2f}" for i in range(4) for j in range(i)}
    assert ax.images[0].get_clim() == (-1, 1)
    assert bar.get_ylabel() == "forgetting"
    assert ax.get_title() == "ER"
    assert_apart(figure)


def test_forgetting_matrix_of_an_online_stream():
    R = torch.tensor([[0.5, 0.1], [0.8, 0.3], [0.6, 0.6], [0.7, 0.9]])
    assert numbers(plots.forgetting_matrix(R, seen=[1, 1, 2, 2])) == {(3, 1): "0.20", (4, 1): "0.10"}


def test_no_minus_zero():
    R = torch.tensor([[0.5, 0.0], [0.501, 0.5]])
    assert numbers(plots.forgetting_matrix(R)) == {(2, 1): "0.00"}


# ---------------------------------------------------------------- figures


DRAW = {
    "timeline": lambda **k: plots.accuracy_timeline(CURVES, **k),
    "matrix": lambda **k: plots.matrix(runs(2, 5), **k),
    "forgetting": lambda **k: plots.forgetting_matrix(runs(2, 5), **k),
}


@pytest.mark.parametrize("name", DRAW)
def test_drawing_on_given_axes(name):
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    assert DRAW[name](ax=right) is right
    assert not left.lines
    assert not left.images
    assert right.lines or right.images
    part = Figure(figsize=(9, 4), layout="constrained")
    inner = part.subfigures(1, 2)[0].subplots()
    assert DRAW[name](ax=inner) is inner
    assert_apart(figure)


@pytest.mark.parametrize("name", [*DRAW, "matrices"])
def test_figures_are_written_and_nothing_global_is_touched(name, tmp_path):
    before = sys.modules.get("matplotlib.pyplot")
    picture = DRAW[name]() if name in DRAW else plots.matrices({"a": runs(2, 5), "b": runs(2, 5)})
    assert type(picture) is plots.Picture
    assert type(picture.figure) is Figure
    picture.savefig(tmp_path / f"{name}.png")
    picture.savefig(tmp_path / f"{name}.pdf", dpi=40)
    assert (tmp_path / f"{name}.png").stat().st_size > 5000
    assert sys.modules.get("matplotlib.pyplot") is before
    if before is not None:
        assert not before.get_fignums()


@pytest.mark.parametrize("name", [*DRAW, "matrices"])
def test_without_matplotlib_the_error_names_the_mend(name, monkeypatch):
    for module in [m for m in sys.modules if m.split(".")[0] == "matplotlib"] + ["matplotlib"]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "cl_func\[plots\]"'):
        DRAW[name]() if name in DRAW else plots.matrices({"a": runs(2, 5)})


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: plots.accuracy_timeline({}), "curves: nothing to draw"),
        (lambda: plots.accuracy_timeline({"ER": [0.5]}), r"curves\['ER'\]: expected a floating tensor"),
        (lambda: plots.accuracy_timeline({"ER": torch.rand(2, 3, 4)}), r"curves\['ER'\]: expected \[seeds, time\] or \[time\]"),
        (lambda: plots.accuracy_timeline({"ER": torch.tensor([50.0])}), "divide percentages by 100"),
        (lambda: plots.accuracy_timeline({"ER": torch.tensor([math.nan])}), "NaN"),
        (lambda: plots.accuracy_timeline(CURVES, confidence=95), "confidence"),
        (lambda: plots.matrix(torch.rand(3)), "R: expected at least 2 dimensions"),
        (lambda: plots.matrix(torch.rand(2, 2, 3, 3)), r"R: expected \[time, T\] or \[seeds, time, T\]"),
        (lambda: plots.matrices({}), "matrices: nothing to draw"),
        (lambda: plots.matrices({"ER": torch.rand(3)}), r"matrices\['ER'\]: expected at least 2"),
        (lambda: plots.forgetting_matrix(torch.rand(4, 2)), "seen: R has 4 times but 2 experiences"),
    ],
)
def test_errors(call, match):
    with pytest.raises(ValueError, match=match):
        call()


# ---------------------------------------------------------------- names at the ends of lines


@settings(deadline=None)
@given(
    wanted=st.lists(st.floats(-50, 150), min_size=1, max_size=8),
    height=st.floats(1, 12),
)
def test_names_are_moved_apart_as_little_as_possible(wanted, height):
    found = apart(wanted, height, 0, 100)
    ordered = sorted(found)
    assert [found[i] for i in sorted(range(len(wanted)), key=wanted.__getitem__)] == ordered
    assert ordered[0] >= height / 2 - 1e-9
    assert ordered[-1] <= 100 - height / 2 + 1e-9
    assert all(b - a >= height - 1e-9 for a, b in itertools.pairwise(ordered))
    # Less their distances the places only have to ascend, within the ends: isotonic regression, then cut at these.
    steps = height * np.arange(len(wanted))
    ascending = isotonic_regression(np.sort(wanted) - steps).x
    nearest = np.clip(ascending, height / 2, 100 - height / 2 - steps[-1]) + steps
    assert ordered == pytest.approx(nearest.tolist(), abs=1e-6)


def test_names_moved_apart_by_hand():
    assert apart([10.0, 10.0, 40.0], 4.0, 0.0, 100.0) == [8.0, 12.0, 40.0]
    assert apart([40.0, 10.0, 10.0], 4.0, 0.0, 100.0) == [40.0, 8.0, 12.0]
    assert apart([-5.0, 99.0], 4.0, 0.0, 100.0) == [2.0, 98.0]


METHODS = {f"method {i}": metrics.average_accuracy(runs(3, 5, 1.2 - 0.06 * i)) for i in range(12)}


@pytest.mark.parametrize("layout", [None, "constrained", "tight"])
def test_twelve_methods_in_axes_of_ones_own_figure_stay_apart(layout):
    figure = Figure(figsize=(11, 4), layout=layout)
    left, right = figure.subplots(1, 2)
    plots.accuracy_timeline(METHODS, ax=left, missing=["lost (3 of 3 diverged)"])
    plots.accuracy_timeline(CURVES, ax=right)
    assert left.get_legend() is None
    FigureCanvasAgg(figure).draw()
    (labels,) = left.findobj(EndLabels)
    assert [text.get_text() for text in labels.texts] == [*METHODS, "lost (3 of 3 diverged)"]
    renderer = FigureCanvasAgg(figure).get_renderer()
    neighbour = right.get_tightbbox(renderer)
    legend = right.get_legend().get_window_extent(renderer)
    for text in labels.texts:
        box = text.get_window_extent(renderer)
        assert box.x1 <= neighbour.x0 + 1
        assert left.bbox.y0 - 1 <= box.y0 <= box.y1 <= left.bbox.y1 + 1
    assert not legend.overlaps(left.get_tightbbox(renderer))
    assert_apart(figure)


@pytest.mark.parametrize(("size", "dpi"), [((6, 3.5), 60), ((3, 1.5), 150), ((8, 9), 100)])
def test_names_stay_apart_in_any_size(size, dpi):
    ax = plots.accuracy_timeline(METHODS)
    ax.figure.set(size_inches=size, dpi=dpi)
    drawn(ax)
    (labels,) = ax.findobj(EndLabels)
    boxes = sorted((text.get_window_extent() for text in labels.texts), key=lambda box: box.y0)
    assert all(above.y0 >= below.y1 - 1 for below, above in itertools.pairwise(boxes))
    assert all(ax.figure.bbox.padded(1).contains(box.x1, box.y1) for box in boxes)


def test_where_names_stand_and_how_spread_is_drawn_are_options():
    def bands(ax):
        return sum(isinstance(one, PolyCollection) for one in ax.collections), sum(
            isinstance(one, LineCollection) for one in ax.collections
        )

    assert bands(plots.accuracy_timeline(CURVES)) == (2, 0)
    assert bands(plots.accuracy_timeline(METHODS)) == (0, 12)
    assert bands(plots.accuracy_timeline(METHODS, spread="band")) == (12, 0)
    assert bands(plots.accuracy_timeline(CURVES, spread="none")) == (0, 0)
    assert plots.accuracy_timeline(CURVES, direct=True).get_legend() is None
    assert len(plots.accuracy_timeline(METHODS, direct=False).get_legend().get_texts()) == 12


def test_the_bars_at_the_ends_are_the_confidence_intervals():
    ax = plots.accuracy_timeline(METHODS, confidence=0.9)
    bars = {one.get_colors()[0].tobytes() + np.round(one.get_segments()[0].mean(0), 9).tobytes(): one for one in ax.collections}
    assert len(bars) == 12
    found = sorted(tuple(one.get_segments()[0][:, 1]) for one in ax.collections)
    ends = [metrics.mean_ci(values.double(), 0.9) for values in METHODS.values()]
    wanted = sorted(((mean - half)[-1].item(), (mean + half)[-1].item()) for mean, half in ends)
    assert np.array(found) == pytest.approx(np.array(wanted))
    assert ax.get_ylim() == (0, 1)


def test_titles_names_and_scales_are_options():
    R = runs(2, 3)
    ax = plots.accuracy_timeline(CURVES, title="Split-MNIST", ylim=(0.5, None))
    assert (ax.get_title(), ax.get_ylim()[0]) == ("Split-MNIST", 0.5)
    ax = plots.matrix(R, title="t", xlabel="x", ylabel="y", labels=["cats", "dogs", "cars"])
    drawn(ax)
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("t", "x", "y")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["cats", "dogs", "cars"]
    ax = plots.matrices({"a": R, "b": R}, title="both", labels=["cats", "dogs", "cars"])
    assert ax.figure.get_suptitle() == "both"
    assert [*ax.panels] == ["a", "b"]
    assert_apart(ax)
    with pytest.raises(ValueError, match="labels: expected a name for each of the 3 experiences"):
        plots.matrix(R, labels=["cats"])


def test_errors_are_drawn_from_0_and_other_measures_as_they_are():
    errors = {"ER": torch.tensor([3.0, 8.0, 5.0])}
    low, high = plots.accuracy_timeline(errors, higher_is_better=False).get_ylim()
    assert low == 0
    assert 8 < high < 10
    low, high = plots.accuracy_timeline(errors, higher_is_better=True).get_ylim()
    assert 2 < low < 3


def test_several_panels_within_given_axes():
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    assert plots.matrices({"a": runs(2, 5), "b": runs(2, 5)}, ax=left, title="both") is left
    plots.accuracy_timeline(CURVES, ax=right)
    assert left.get_title() == "both"
    assert not left.axison
    assert_apart(figure)
    with pytest.raises(ValueError, match="ax: several panels need axes that have a place in a grid"):
        plots.matrices({"a": runs(2, 5)}, ax=Figure().add_axes((0, 0, 1, 1)))


# ---------------------------------------------------------------- pictures


def test_a_picture_shows_itself_in_a_notebook(tmp_path):
    picture = plots.matrix(runs(2, 5))
    shown, size = picture._repr_png_()
    width, height = picture.figure.get_size_inches()
    assert size == {"width": round(90 * width), "height": round(90 * height)}
    assert shown[:8] == b"\x89PNG\r\n\x1a\n"
    picture.savefig(tmp_path / "same.png")
    assert shown == (tmp_path / "same.png").read_bytes()
    assert pickle.loads(pickle.dumps(picture))._repr_png_() == (shown, size)


def test_ipython_finds_it():
    formatters = pytest.importorskip("IPython.core.formatters")
    shown, _ = formatters.DisplayFormatter().format(plots.accuracy_timeline(METHODS), include={"image/png"})
    assert shown["image/png"][:4] == b"\x89PNG"

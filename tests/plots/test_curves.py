"""Forgetting curves and learning curves, by hand and of Runs: what is drawn is read back from the Axes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from made_runs import make, swept
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from test_plots import assert_apart, drawn, runs

from cl_func import metrics, plots
from cl_func.plots.end_labels import EndLabels
from cl_func.plots.learning import running_mean

NAN = math.nan
R = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.8, 0.2], [0.25, 0.5, 0.7]])


def lines(ax):
    """Each line that has points, (x, y), by its name."""
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines if len(line.get_xdata())}


def same_lines(found, wanted):
    assert [*found] == [*wanted]
    for name, (x, y) in wanted.items():
        assert found[name][0] == x
        assert found[name][1] == pytest.approx(y, nan_ok=True)


def same_bars(ax, *curves):
    """The axes have a bar of the interval at the end of each line, in its colour."""
    bars = [one for one in ax.collections if isinstance(one, LineCollection)]
    of_lines = {line.get_ydata()[-1]: line.get_color() for line in ax.lines if len(line.get_ydata())}
    assert len(bars) == len(curves)
    for bar, values in zip(bars, curves, strict=True):
        mean, half = (part[-1].item() for part in metrics.mean_ci(values.double(), 0.95))
        assert bar.get_segments()[0][:, 1].tolist() == pytest.approx([mean - half, mean + half])
        assert to_hex(bar.get_color()[0]).lower() == next(c for y, c in of_lines.items() if y == pytest.approx(mean)).lower()


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# ---------------------------------------------------------------- forgetting curves


def test_forgetting_curves():
    ax = plots.forgetting_curves(R, title="ER")
    wanted = {"experience 1": ([1, 2, 3], [0.9, 0.5, 0.25]), "experience 2": ([2, 3], [0.8, 0.5]), "experience 3": ([3], [0.7])}
    same_lines(lines(ax), wanted)
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("ER", "experiences trained on", "accuracy")
    assert ax.get_ylim() == (0, 1)
    assert legend(ax) == ["experience 1", "experience 2", "experience 3"]  # by number, as the colours, and not by where lines end
    assert legend(plots.forgetting_curves(R, higher_is_better=False)) == legend(ax)
    assert len({line.get_color() for line in ax.lines}) == 3
    assert_apart(ax)
    several = torch.stack([R, R - 0.1 * R])
    ax = plots.forgetting_curves(several, labels=["cats", "dogs", "cars"])
    assert lines(ax)["dogs"][1] == pytest.approx([0.76, 0.475])
    assert sum(isinstance(one, PolyCollection) for one in ax.collections) == 2
    same_bars(ax, several[:, 2:, 2])  # the last experience is a single point, of which a band has no width


def test_a_single_point_has_a_bar_for_its_interval():
    """Within the scale, and beside those of other names; not where there is no interval, or none is to be drawn."""
    runs = {name: torch.stack([R, R - shift]).clamp(0, 1) for name, shift in (("ER", 0.1), ("EWC", 0.2))}
    panels = plots.forgetting_curves(runs).panels
    same_bars(panels["experience 3"], *(values[:, 2:, 2] for values in runs.values()))
    same_bars(panels["experience 1"])
    lone = plots.accuracy_timeline({"ER": torch.tensor([[0.9], [0.6]])})
    same_bars(lone, torch.tensor([[0.9], [0.6]]))
    lone.figure.draw_without_rendering()
    (bar,) = lone.collections
    extent, frame = bar.get_window_extent(), lone.bbox
    assert extent.y1 > frame.y1  # the interval goes beyond 1
    assert (bar.get_clip_box().y0, bar.get_clip_box().y1) == pytest.approx((frame.y0, frame.y1))
    same_bars(plots.learning_curve(torch.tensor([[1.0], [2.0]])), torch.tensor([[1.0], [2.0]]))
    same_bars(plots.accuracy_timeline({"ER": torch.tensor([[0.9]])}))
    same_bars(plots.accuracy_timeline({"ER": torch.tensor([[0.9], [0.6]])}, spread="none"))


def test_forgetting_curves_of_an_online_stream_begin_where_an_experience_does():
    online = torch.tensor([[0.5, 0.1], [0.8, 0.3], [0.6, 0.6], [0.7, 0.9]])
    ax = plots.forgetting_curves(online, seen=[1, 1, 2, 2])
    same_lines(lines(ax), {"experience 1": ([1, 2, 3, 4], [0.5, 0.8, 0.6, 0.7]), "experience 2": ([3, 4], [0.6, 0.9])})
    assert [*lines(plots.forgetting_curves(online, seen=[1, 1, 1, 1]))] == ["experience 1"]
    with pytest.raises(ValueError, match="seen: R has 4 times but 2 experiences"):
        plots.forgetting_curves(online)


def test_forgetting_curves_of_several_methods_have_a_panel_for_each_experience():
    ax = plots.forgetting_curves({"ER": R, "naive": R / 2}, missing=["GEM (3 of 3 diverged)"], title="both")
    assert [*ax.panels] == ["experience 1", "experience 2", "experience 3"]
    for j, panel in enumerate(ax.panels.values()):
        x = [*range(j + 1, 4)]
        same_lines(lines(panel), {"ER": (x, R[j:, j].tolist()), "naive": (x, (R[j:, j] / 2).tolist())})
        assert panel.get_title() == f"experience {j + 1}"
        assert panel.get_ylim() == (0, 1)
    assert legend(ax) == ["ER", "naive", "GEM (3 of 3 diverged)"]
    assert_apart(ax)
    with pytest.raises(ValueError, match="R\\['b'\\]: expected as many experiences as the others"):
        plots.forgetting_curves({"a": R, "b": R[:2, :2]})


@pytest.mark.parametrize("n", [5, 10, 25])
def test_forgetting_curves_of_any_number_of_experiences_can_be_read(n):
    ax = plots.forgetting_curves(runs(3, n))
    assert_apart(ax)
    assert len(lines(ax)) == n
    bars = [one for one in ax.figure.axes if one is not ax]
    assert bool(ax.get_legend()) == (n == 5)
    assert len(ax.findobj(EndLabels)) == (n == 10)
    assert [bar.get_ylabel() for bar in bars] == (["test experience"] if n == 25 else [])


def test_forgetting_curves_in_given_axes():
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    assert plots.forgetting_curves(runs(3, 4), ax=left) is left
    assert plots.forgetting_curves({f"m{i}": runs(3, 4) for i in range(8)}, ax=right, title="eight") is right
    assert len(legend(right)) == 8
    assert_apart(figure)
    plain = Figure(figsize=(14, 4))  # without a layout
    left, right = plain.subplots(1, 2)
    plots.forgetting_curves({f"a method {i}": runs(3, 4) for i in range(8)}, ax=left, title="eight")
    plots.matrices({"a": runs(2, 3), "b": runs(2, 3)}, ax=right, title="two")
    assert_apart(plain)
    box = left.get_legend().get_window_extent()
    assert not any(box.overlaps(panel.get_tightbbox()) for panel in plain.axes if panel is not left)


# ---------------------------------------------------------------- learning curves


def test_a_running_mean_by_hand():
    values = torch.tensor([[1.0, 3.0, 5.0, 7.0], [2.0, NAN, 4.0, 6.0]])
    assert running_mean(values, 1).nan_to_num(-1).tolist() == values.double().nan_to_num(-1).tolist()
    assert running_mean(values, 2).nan_to_num(-1).tolist() == [[1.0, 2.0, 4.0, 6.0], [2.0, -1, 4.0, 5.0]]
    assert running_mean(values, 9).nan_to_num(-1).tolist() == [[1.0, 2.0, 3.0, 4.0], [2.0, -1, 3.0, 4.0]]


@pytest.mark.parametrize("window", [1, 2, 7, 50, 101, 300])
def test_a_running_mean_is_that_of_each_window(window):
    """Also behind a spike, which a difference of sums over all steps would not survive."""
    values = torch.rand(3, 101, generator=torch.Generator().manual_seed(0)).double()
    values[0, 5], values[1, 40:], values[2, 3] = NAN, NAN, 1e30
    wanted = torch.stack([values[:, max(0, i - window + 1) : i + 1].nanmean(-1) for i in range(101)], -1)
    wanted[values.isnan()] = NAN
    torch.testing.assert_close(running_mean(values, window), wanted, rtol=1e-12, atol=0, equal_nan=True)


def test_learning_curve():
    values = torch.tensor([[4.0, 2.0, 2.0, 1.0], [2.0, 2.0, 4.0, NAN]])
    ax = plots.learning_curve(
        {"lr 0.1": values, "lr 0.3": values[0, :3]}, window=2, ends=[2, 4], missing=["lr 1 (2 of 2 diverged)"]
    )
    curves = {name: line for name, line in lines(ax).items() if name[0] != "_"}
    wanted = {"lr 0.1": ([1, 2, 3, 4], [3.0, 2.5, 2.5, 1.5]), "lr 0.3": ([1, 2, 3], [4.0, 3.0, 2.0])}
    same_lines(curves, wanted)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "loss, mean of 2 steps")
    assert legend(ax) == ["lr 0.1", "lr 0.3", "lr 1 (2 of 2 diverged)"]  # the lowest is the best
    assert ax.get_ylim()[0] == 0
    assert [x for name, (x, _) in lines(ax).items() if name[0] == "_"] == [[2, 2], [4, 4]]
    (band,) = [one for one in ax.collections if isinstance(one, PolyCollection)]
    mean, half = metrics.mean_ci(torch.tensor([3.0, 2.0], dtype=torch.float64))
    heights = [y for x, y in band.get_paths()[0].vertices if x == 2]
    assert (min(heights), max(heights)) == pytest.approx((float(mean - half), float(mean + half)))
    assert_apart(ax)


def test_a_learning_curve_says_its_window():
    values = torch.rand(3, 200) + 0.5
    assert plots.learning_curve(values).get_ylabel() == "loss, mean of 4 steps"
    ax = plots.learning_curve(values[0], window=1, ylabel="gradient norm", log=True)
    assert ax.get_ylabel() == "gradient norm"
    assert ax.get_yscale() == "log"
    assert ax.get_legend() is None
    np.testing.assert_allclose(ax.lines[0].get_ydata(), values[0].double())
    with pytest.raises(ValueError, match="a logarithmic scale needs values above 0"):
        plots.learning_curve(values - 0.5 - values.min(), log=True)


# ---------------------------------------------------------------- Runs


def test_plot_forgetting():
    found = swept()
    ax = found.plot_forgetting(title="t")
    sound = found["accuracy"][1, 0].double().mean(0)
    assert lines(ax.panels["experience 2"])["opt.lr=0.1, lwf.strength=0.5"][1] == pytest.approx(sound[1:, 1].tolist())
    assert legend(ax)[-1] == "opt.lr=0.1, lwf.strength=1 (4 of 4 diverged)"
    ax = found.at(**{"opt.lr": 1.0, "lwf.strength": 0.5}).plot_forgetting()
    kept = found["accuracy"][0, 0, 1:].double().mean(0)
    assert lines(ax)["experience 1"][1] == pytest.approx(kept[:, 0].tolist())
    assert ax.get_title() == "1 of 4 diverged, 1 of 4 constant answers"
    found.history["norm"] = torch.ones(2, 3, 4, 3)
    with pytest.raises(ValueError, match="history: expected one by time and test experience, but 'norm'"):
        found.plot_forgetting("norm")


def test_plot_classes():
    found = swept()
    ax = found.plot_classes(labels=list("abcdef"), title="classes")
    assert [*ax.panels] == ["a (1 of 4 diverged, 1 of 4 constant answers)", "b", "c", "d", "f", "e (4 of 4 diverged)"]
    (image,) = ax.panels["b"].images
    np.testing.assert_allclose(image.get_array(), found["class_accuracy"][0, 1].double().mean(0).T)
    assert ax.panels["b"].get_yticks().tolist() == [1, 2, 3, 4, 5, 6]
    assert_apart(ax)


def test_plot_curve():
    found = swept(1, 3, 3)
    values = torch.rand(1, 3, 3, 3, 4, generator=torch.Generator().manual_seed(0))
    found.history.update({"losses.values": values, "losses.count": torch.tensor([4, 8, 12]).expand(1, 3, 3, 3)})
    ax = found.plot_curve("losses", window=3, labels=["a", "b", "c"])
    assert ax.get_ylabel() == "losses, mean of 3 steps"

    def smooth(curves):
        return [*range(1, 13)], running_mean(curves.double(), 3).mean(0).tolist()

    curves = found.curve("losses")[0]
    wanted = {"a (1 of 3 diverged, 1 of 3 constant answers)": smooth(curves[0, 1:]), "c": smooth(curves[2])}
    same_lines(lines(ax), wanted)
    assert {*legend(ax)} == {*wanted, "b (3 of 3 diverged)"}
    assert legend(ax)[-1] == "b (3 of 3 diverged)"


def test_a_timeline_of_any_history():
    found = swept()
    found.history["norm"] = torch.rand(2, 3, 4, 3) * 100
    found.history["0.r2"] = 0.5 - torch.rand(2, 3, 4, 3, 3)
    found.history["often"] = torch.rand(2, 3, 4, 7, 3)
    ax = found.plot_timeline("norm", labels=list("abcdef"), title="norms")
    assert (ax.get_title(), ax.get_ylabel(), ax.get_xlabel()) == ("norms", "norm", "time")
    assert lines(ax)["b"][1] == pytest.approx(found["norm"][0, 1].double().mean(0).tolist())
    assert ax.get_ylim()[1] > 1
    ax = found.plot_timeline("0.r2")
    assert (ax.get_ylabel(), ax.get_ylim()[1]) == ("average r2 (0)", 1.0)  # of the first of several evaluations
    ax = found.plot_timeline("often", higher_is_better=False)
    assert ax.get_ylabel() == "mean often of all experiences"
    assert lines(ax)["opt.lr=1, lwf.strength=1"][1] == pytest.approx(found["often"][0, 1].double().mean((0, -1)).tolist())
    assert ax.get_ylim()[0] == 0
    ax = found.plot_timeline("loss")
    assert ax.get_ylabel() == "average loss"
    for bad in (["a"], "abcdef", list("abcdee"), [1, 2, 3, 4, 5, 6]):
        with pytest.raises((TypeError, ValueError), match="labels: expected"):
            found.plot_timeline(labels=bad)
    with pytest.raises(ValueError, match="'nowhere': no such history"):
        found.plot_timeline("nowhere")


def test_the_classes_of_a_stream_that_is_measured_more_often_are_over_time():
    found = swept()
    assert "after experience" in {ax.get_xlabel() for ax in found.plot_classes().figure.axes}
    found.history["accuracy"] = torch.rand(2, 3, 4, 7, 3)
    found.history["class_accuracy"] = torch.rand(2, 3, 4, 7, 5)
    labels = {ax.get_xlabel() for ax in found.plot_classes().figure.axes}
    assert "time" in labels
    assert "after experience" not in labels


def test_labels_that_are_texts_need_no_name_of_their_axis():
    found = make({"method": ["ER", "DER++"], "opt.lr": [0.1, 0.3], "seed": [0, 1]})
    assert [*lines(found.plot_timeline())] == ["ER, opt.lr=0.1", "ER, opt.lr=0.3", "DER++, opt.lr=0.1", "DER++, opt.lr=0.3"]
    alike = make({"a": ["x, y", "x"], "b": ["z", "y, z"], "seed": [0, 1]})
    assert [*lines(alike.plot_timeline())] == ["a=x, y, b=z", "a=x, y, b=y, z", "a=x, b=z", "a=x, b=y, z"]


@pytest.mark.parametrize("plot", ["timeline", "matrix", "forgetting", "classes", "grid", "scatter", "parallel"])
def test_every_picture_of_runs_says_what_is_not_finished_and_what_diverged(plot):
    found = swept()
    found.finished[0, 1, 2:] = False
    for value in found.history.values():
        value[0, 1, 2:] = NAN
    figure = drawn(getattr(found, f"plot_{plot}")())
    said = " ".join(" ".join(text.get_text().split()) for text in figure.findobj(lambda one: hasattr(one, "get_text")))
    assert "2 of 4 unfinished" in said or "2 of 24 unfinished" in said
    assert "4 of 4 diverged" in said or "5 of 24 diverged" in said
    inner = Figure(figsize=(12, 6), layout="constrained").subplots(1, 2)[1]
    assert getattr(found, f"plot_{plot}")(ax=inner, title="mine") is inner

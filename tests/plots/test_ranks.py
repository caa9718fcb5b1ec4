"""The critical-difference diagram: ranks by hand, the table of Demšar (2006), and what is drawn."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import guesses, make

import cl_func as cl
from cl_func.plots import ranks

quick = settings(max_examples=60, deadline=None)
SCORES = {"a": torch.tensor([0.9, 0.8, 0.7, 0.6]), "b": torch.tensor([0.5, 0.8, 0.6, 0.7]), "c": torch.tensor([0.1, 0.2, 0.3, 0.4])}


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_ranks_by_hand():
    """Block by block: 1 2 3; a tie 1.5 1.5 3; 1 2 3; 2 1 3."""
    scores = np.stack([value.numpy() for value in SCORES.values()])
    assert ranks.average_ranks(scores).tolist() == [5.5 / 4, 6.5 / 4, 3]
    assert ranks.average_ranks(scores, largest=False).tolist() == [10.5 / 4, 9.5 / 4, 1]
    assert ranks.friedman(scores) == pytest.approx(scipy.stats.friedmanchisquare(*scores).pvalue)
    assert ranks.friedman(np.ones((3, 4))) == 1.0


def test_the_same_accuracies_in_another_order_are_a_tie():
    """Means of the same three float32 numbers differ by the order in which they are summed."""
    b = torch.tensor([[0.15, 0.55, 0.95], [0.25, 0.35, 0.9], [0.15, 0.65, 0.7], [0.05, 0.45, 0.85]])
    R = torch.full((3, 4, 3, 3), 0.5)
    R[0, :, -1], R[1, :, -1], R[2, :, -1] = b, b.flip(-1), b[:, [1, 2, 0]]
    runs = cl.Runs({"method": [*"abc"], "seed": [0, 1, 2, 3]}, {"accuracy": R}, torch.ones(3, 4, dtype=torch.bool), 1.0)
    picture = runs.plot_critical_difference()
    assert {"a (2.00)", "b (2.00)", "c (2.00)"} <= {text.strip() for text in texts(picture)}
    assert "p = 1:" in picture.get_title()
    scores = {name: R[i].mean((-1, -2)) for i, name in enumerate("abc")}
    assert {"a (2.00)", "b (2.00)", "c (2.00)"} <= {text.strip() for text in texts(cl.plots.critical_difference(scores))}


# Table 5a of Demšar (2006): the critical values of Nemenyi's test.
TABLE = {0.05: (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164), 0.10: (1.645, 2.052, 2.291, 2.459, 2.589)}


@pytest.mark.parametrize("level", TABLE)
def test_the_critical_difference_is_that_of_the_table(level):
    for k, q in enumerate(TABLE[level], 2):
        assert ranks.critical(k, 10, level) == pytest.approx(q * math.sqrt(k * (k + 1) / 60), abs=1.5e-3)
    assert ranks.critical(4, 14, 0.10) == pytest.approx(1.12, abs=5e-3)  # his example, section 3.2.4


def test_groups_are_the_largest():
    assert ranks.groups([1.0, 1.5, 2.2, 4.0], 1.0) == [(1.0, 1.5), (1.5, 2.2)]
    assert ranks.groups([3.0, 1.0, 2.0], 5.0) == [(1.0, 3.0)]
    assert ranks.groups([1.0, 2.0, 3.0], 1.0) == []  # at least CD apart is a difference


@quick
@given(st.lists(st.floats(1, 9), min_size=2, max_size=8), st.floats(0.1, 5))
def test_two_methods_share_a_line_where_they_do_not_differ(given_ranks, cd):
    lines = ranks.groups(given_ranks, cd)
    for a in given_ranks:
        for b in given_ranks:
            if a < b:
                assert any(low <= a and b <= high for low, high in lines) == (b - a < cd)
    assert not any(a != b and a[0] <= b[0] and b[1] <= a[1] for a in lines for b in lines)


def test_critical_difference():
    ax = cl.plots.critical_difference(SCORES, title="digits")
    assert [text for text in texts(ax) if "(" in text] == ["a (1.38) ", "b (1.62) ", " c (3.00)"]
    assert "CD = 1.66" in texts(ax)
    # Rank sums 5.5, 6.5 and 12: chi^2 = (12 / 48 * 216.5 - 48) / (1 - 6 / 96) = 6.53, with 2 degrees of freedom p = exp(-3.27).
    assert ax.get_title() == "digits\n4 blocks, Friedman's p = 0.038"
    thick = [line for line in ax.lines if line.get_linewidth() > 3]
    assert [[*line.get_xdata()] for line in thick] == [[1.375 - 0.02, 3 + 0.02]]
    few = cl.plots.critical_difference({name: value[:2] for name, value in SCORES.items()})
    assert ": no difference is shown" in few.get_title().replace("\n", " ")
    assert "CD = 2.34" in texts(few)  # longer than the axis


def test_it_draws_into_given_axes():
    from matplotlib.figure import Figure

    figure = Figure()
    ax = figure.add_subplot()
    assert cl.plots.critical_difference(SCORES, ax=ax) is ax
    assert any("a (1.38)" in text.get_text() for text in ax.texts)


def test_names_do_not_overlap():
    """The boxes of all texts, for many methods with long names and one rank."""
    scores = {f"method number {i} {'x' * i}": torch.arange(3.0) for i in range(9)}
    picture = cl.plots.critical_difference(scores)
    figure = picture.figure
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in picture.texts]
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_plot_critical_difference():
    runs = make({"method": ["a", "b", "c"], "setting": ["x", "y"], "seed": [0, 1, 2]})
    values = runs.metric()  # [method, setting, seed], all different
    by_hand = {name: values[m].flatten().double() for m, name in enumerate("abc")}
    picture, wanted = runs.plot_critical_difference(), cl.plots.critical_difference(by_hand)
    assert texts(picture) == texts(wanted)
    assert texts(cl.plots.critical_difference(runs)) == texts(wanted)
    assert "6 blocks" in picture.get_title()
    settings_only = runs.plot_critical_difference(over="settings")
    assert "2 blocks" in settings_only.get_title()
    assert texts(settings_only) == texts(
        cl.plots.critical_difference({n: values[m].mean(-1).double() for m, n in enumerate("abc")})
    )
    loss = runs.plot_critical_difference("forgetting", axis="method")
    assert texts(loss) == texts(
        cl.plots.critical_difference(
            {n: runs.metric("forgetting")[m].flatten().double() for m, n in enumerate("abc")}, largest=False
        )
    )


def test_seeds_without_a_number_are_left_out():
    runs = guesses(points=3)
    runs["loss"][2, 3:] = 1.0  # of ten seeds three diverged at the last point, and the first two of them at the second, too
    picture = runs.plot_critical_difference(axis="opt.lr")
    assert (
        picture.get_title()
        == "3 left out, with which some have no number\n7 blocks, Friedman's p = " + (picture.get_title().rpartition("= ")[2])
    )
    with pytest.raises(ValueError, match="at least three"):
        make({"method": ["a", "b"], "seed": [0, 1]}).plot_critical_difference()


def test_too_few_blocks_are_explained():
    runs = make({"method": [*"abc"], "seed": [0, 1, 2]})
    runs.history["loss"] = torch.ones(3, 3, 3)
    runs["loss"][1, :2] = math.nan
    with pytest.raises(ValueError, match=r"1 of 3 runs have a number for all that is ranked, .* there is none for 'b' \(2 of 3\)"):
        runs.plot_critical_difference()


def test_the_way_of_a_function_must_be_said():
    runs = make({"method": [*"abc"], "seed": [0, 1, 2]})
    with pytest.raises(ValueError, match="largest: it is not known whether larger is better for"):
        runs.plot_critical_difference(lambda R: R[-1].min())
    forgetting = functools.partial(cl.metrics.forgetting, seen=[1, 2, 3])
    assert texts(runs.plot_critical_difference(forgetting)) == texts(runs.plot_critical_difference("forgetting"))

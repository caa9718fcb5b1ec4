"""Comparisons over the seeds: known answers by hand and from scipy, what is left out, and when seeds are too few."""

from __future__ import annotations

import itertools
import math
import re

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cl_func as cl
from cl_func.sweeps import significance

quick = settings(max_examples=60, deadline=None)


def fixed(values, axis="method", **more):
    """Runs whose average accuracy is `values`, by label a list with a number for each seed."""
    numbers = torch.tensor([*values.values()], dtype=torch.float64)
    R = numbers[..., None, None].expand(*numbers.shape, 2, 2).contiguous()
    axes = {axis: list(values), "seed": list(range(numbers.shape[-1]))}
    return cl.Runs(axes, {"accuracy": R, **more}, torch.ones(numbers.shape, dtype=torch.bool), 1.0)


A = [0.91, 0.86, 0.88, 0.95, 0.83, 0.90, 0.87]
B = [0.85, 0.87, 0.80, 0.90, 0.80, 0.86, 0.85]
C = [0.40, 0.45, 0.52, 0.41, 0.49, 0.50, 0.44]
RUNS = fixed({"ER": A, "DER++": B, "naive": C})


@pytest.mark.parametrize("test", ["wilcoxon", "t"])
def test_one_comparison_is_scipys(test):
    (pair,) = RUNS.compare("ER", "DER++", test=test)
    difference = torch.tensor(A, dtype=torch.float64) - torch.tensor(B, dtype=torch.float64)
    found = scipy.stats.wilcoxon(A, B) if test == "wilcoxon" else scipy.stats.ttest_rel(A, B)
    assert pair.p == pytest.approx(found.pvalue, rel=1e-9)
    assert pair.p_holm == pair.p
    interval = scipy.stats.ttest_rel(A, B).confidence_interval(0.95)
    assert (pair.low, pair.high) == pytest.approx((interval.low, interval.high), rel=1e-7)
    assert pair.difference == pytest.approx(difference.mean().item())
    assert (pair.a, pair.b, pair.at, pair.n, pair.seeds, pair.left_out) == ("ER", "DER++", {}, 7, (*range(7),), ())


def test_a_known_answer_by_hand():
    """Six differences of one sign: p = 2 / 2^6. Ranks 1..6 of which only the smallest is negative: p = 2 * 2 / 2^6."""
    one_sign = fixed({"a": [0.51, 0.52, 0.53, 0.54, 0.55, 0.56], "b": [0.5] * 6})
    assert one_sign.compare("a", "b")[0].p == pytest.approx(2 / 64)
    other = fixed({"a": [0.49, 0.52, 0.53, 0.54, 0.55, 0.56], "b": [0.5] * 6})
    assert other.compare("a", "b")[0].p == pytest.approx(4 / 64)
    mirrored = other.compare("b", "a")[0]
    assert (mirrored.p, mirrored.difference) == (pytest.approx(4 / 64), pytest.approx(-0.19 / 6))


def test_all_pairs_and_one_with_the_others_are_corrected_together():
    every = RUNS.compare(metric="average_accuracy")
    assert [(p.a, p.b) for p in every] == [("ER", "DER++"), ("ER", "naive"), ("DER++", "naive")]
    p = [scipy.stats.wilcoxon(a, b).pvalue for a, b in itertools.combinations((A, B, C), 2)]
    assert [pair.p for pair in every] == pytest.approx(p)
    assert [pair.p_holm for pair in every] == pytest.approx(significance.holm(p))
    assert every[1].p_holm == pytest.approx(3 / 64)  # 2^(1-7), three times
    one = RUNS.compare("naive")
    assert [(p.a, p.b) for p in one] == [("naive", "ER"), ("naive", "DER++")]
    assert [pair.p_holm for pair in one] == pytest.approx([2 / 64, 2 / 64])
    assert len(one) == 2


def test_holm_is_that_of_the_paper():
    """Holm (1979), the example of its section 2 in form: sorted p times 4, 3, 2, 1, and never falling."""
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([0.9, 0.8]) == [1.0, 1.0]
    with_nan = significance.holm([0.02, math.nan, 0.01])
    assert with_nan[::2] == pytest.approx([0.02, 0.02])
    assert math.isnan(with_nan[1])


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_rejects_what_the_procedure_rejects(p):
    """The procedure in words: from the smallest p on, reject while p_i <= level / (m - i + 1), then stop."""
    for level in (0.01, 0.05, 0.3):
        rejected, order = set(), sorted(range(len(p)), key=p.__getitem__)
        for step, i in enumerate(order):
            if (len(p) - step) * p[i] > level:
                break
            rejected.add(i)
        assert {i for i, corrected in enumerate(significance.holm(p)) if corrected <= level} == rejected


@quick
@given(st.integers(1, 9), st.data())
def test_wilcoxon_is_the_enumeration_of_all_signs(n, data):
    """Ties and zeros too: ranks of the sizes, averaged where they are equal, and the sum of those of one sign."""
    sizes = data.draw(st.lists(st.sampled_from([-3, -2, -1, 0, 1, 2, 3, 4]), min_size=n, max_size=n))
    d = [s for s in sizes if s]
    ranks = [sum(abs(o) < abs(s) for o in d) + (sum(abs(o) == abs(s) for o in d) + 1) / 2 for s in d]
    total, plus = sum(ranks), sum(r for r, s in zip(ranks, d, strict=True) if s > 0)
    sums = [sum(r for r, sign in zip(ranks, signs, strict=True) if sign) for signs in itertools.product((0, 1), repeat=len(d))]
    extreme = [sum(min(s, total - s) <= min(plus, total - plus) + 1e-9 for s in sums) / len(sums)]
    assert significance.p_value(torch.tensor(sizes, dtype=torch.float64), "wilcoxon") == pytest.approx(extreme[0])


@pytest.mark.parametrize("zeros", [0, 1, 5])
def test_pairs_without_a_difference_leave_the_test_exact(zeros):
    """scipy takes a difference of 0 for a tie, by which more than 13 pairs are no longer exact."""
    values = torch.tensor([0.0] * zeros + [float(i) for i in range(2, 15)], dtype=torch.float64)
    assert significance.p_value(values, "wilcoxon") == pytest.approx(2.0**-12, rel=1e-12)


def test_what_cannot_be_tested():
    same = fixed({"a": [0.5, 0.6], "b": [0.5, 0.6]})
    assert [same.compare("a", "b", test=test)[0].p for test in significance.TESTS] == [1.0, 1.0]
    shifted = fixed({"a": [0.5, 0.5, 0.5], "b": [0.25, 0.25, 0.25]})
    assert shifted.compare("a", "b", test="t")[0].p == 0.0
    one = fixed({"a": [0.5], "b": [0.25]})
    assert math.isnan(one.compare("a", "b", test="t")[0].p)
    assert math.isnan(one.compare("a", "b")[0].low)
    assert "1 seed: a t test needs at least 2." in repr(one.compare("a", "b", test="t"))
    assert "| a | b | +0.250 |  | 1.000 | 1.000 | 1 |" in repr(one.compare("a", "b"))


def test_rounding_is_no_difference():
    """0.1 + 0.2 is not 0.3 in floating-point numbers, but no method is better by that."""
    runs = fixed({"a": [0.3, 0.5], "b": [0.1 + 0.2, 0.5], "c": [0.30001, 0.5]})
    assert runs.compare("a", "b")[0].difference == 0
    assert runs.compare("a", "c")[0].difference == pytest.approx(-0.5e-5)


COUNTS = st.integers(2, 7).flatmap(lambda n: st.lists(st.tuples(*[st.integers(0, 10)] * 12), min_size=n, max_size=n))


@pytest.mark.parametrize("metric", ["average_accuracy", "forgetting", "backward_transfer", "learning_accuracy"])
@quick
@given(counts=COUNTS)
def test_ties_of_counts_are_ties(metric, counts):
    """Accuracies are counts of ten rows, rounded; p is that of the same metric of the counts, which are integers."""
    K = torch.tensor(counts, dtype=torch.float64).reshape(-1, 2, 2, 3).movedim(0, 1)  # [method, seed, last two times, experience]
    K = torch.cat([torch.full_like(K[..., :1, :], 10.0), K], -2)  # [..., 3, 3]: all was right at the first time
    axes = {"method": ["a", "b"], "seed": list(range(K.shape[1]))}
    runs = cl.Runs(axes, {"accuracy": (K / 10).float()}, torch.ones(K.shape[:2], dtype=torch.bool), 1.0)
    whole = getattr(cl.metrics, metric)(K * 6, higher_is_better=True)  # sixths are integers: the means are over 2 and 3
    a, b = (whole if whole.ndim == 2 else whole[..., -1]).round()
    assert runs.compare("a", "b", metric)[0].p == pytest.approx(significance.p_value(a - b, "wilcoxon"))


def test_a_verdict_that_rounding_would_turn():
    """Of the sums -8 -3 2 -1 -8 -2 -6 the second and the sixth in size are a tie: 0.0625 by all signs, 0.047 if it is not seen."""
    right = [[4, 6, 2], [1, 1, 9], [2, 7, 9], [1, 9, 8], [6, 2, 1], [5, 3, 2], [6, 2, 3]]
    other = [[5, 7, 8], [9, 1, 4], [2, 9, 5], [7, 9, 3], [4, 5, 8], [6, 5, 1], [5, 5, 7]]
    R = torch.full((2, 7, 3, 3), 0.5)
    R[:, :, -1] = torch.tensor([right, other]) / 10
    runs = cl.Runs({"method": ["A", "B"], "seed": list(range(7))}, {"accuracy": R}, torch.ones(2, 7, dtype=torch.bool), 1.0)
    assert runs.compare("A", "B")[0].p == 0.0625


def test_a_huge_loss_early_makes_no_ties():
    """How far a number may be off depends on the entries that it is made of, not on the largest of the run."""
    loss = torch.full((2, 3, 3, 3), 1e6)
    loss[:, :, -1] = torch.tensor([[0.5, 0.6, 0.7], [0.4, 0.5, 0.6]])[..., None]
    runs = cl.Runs({"method": ["a", "b"], "seed": [0, 1, 2]}, {"loss": loss}, torch.ones(2, 3, dtype=torch.bool), 1.0)
    assert runs.compare("a", "b", "average_loss", test="t")[0].difference == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize(("n", "least"), [(5, 0.0625), (6, 0.03125)])
def test_too_few_seeds_are_said(n, least):
    runs = fixed({"a": [0.5 + 0.01 * i for i in range(n)], "b": [0.2] * n, "c": [0.1] * n})
    found = runs.compare("a", "b")
    assert found[0].p == least
    assert bool(found.too_few) == (n == 5)
    assert (found.too_few in repr(found)) is True
    if n == 5:
        assert found.too_few == (
            "5 seeds: p is at least 0.0625 in Wilcoxon's test, so that nothing can be significant at 0.05: "
            "at least 6 seeds are needed."
        )
    three = runs.compare()
    assert "3 times that after Holm's correction for 3 comparisons" in three.too_few
    assert "at least 7 seeds are needed" in three.too_few
    assert min(pair.p_holm for pair in three) > 0.05
    assert not runs.compare(test="t").too_few


@pytest.mark.parametrize("comparisons", [1, 2, 10, 45])
def test_the_number_of_seeds_that_are_needed_is_the_smallest(comparisons):
    n = significance.needed("wilcoxon", 0.05, comparisons)
    smallest = [significance.p_value(torch.arange(1.0, m + 1, dtype=torch.float64), "wilcoxon") * comparisons for m in (n - 1, n)]
    assert smallest[1] <= 0.05 < smallest[0]
    assert significance.needed("wilcoxon", 1 - 0.9375, 1) == 5  # the level 0.0625 itself is enough
    assert significance.needed("t", 0.05, comparisons) == 2


def test_seeds_that_went_wrong_are_left_out_and_named():
    loss = torch.ones(2, 7, 2, 2)
    loss[0, 3], loss[1, 5] = math.nan, math.nan
    runs = fixed({"ER": A, "DER++": B}, loss=loss)
    runs.finished[1, 0] = False
    pair = runs.compare("ER", "DER++")[0]
    assert pair.seeds == (1, 2, 4, 6)
    assert pair.left_out == ("seed 0: DER++ not finished", "seed 3: ER diverged", "seed 5: DER++ diverged")
    keep = [1, 2, 4, 6]
    assert pair.p == pytest.approx(scipy.stats.wilcoxon([A[i] for i in keep], [B[i] for i in keep]).pvalue)
    assert "seed 3: ER diverged" in runs.compare("ER", "DER++").table()
    none = fixed({"ER": A, "DER++": B}, loss=torch.full((2, 7, 2, 2), math.nan)).compare("ER", "DER++")
    assert none[0].n == 0
    assert math.isnan(none[0].p)
    assert "0 seeds" in none.too_few
    with_nan = fixed({"a": [0.1, 0.2], "b": [0.3, 0.4]})
    found = with_nan.compare("a", "b", metric=lambda R: math.nan if R[0, 0] == 0.2 else R[0, 0])[0]
    assert found.left_out == ("seed 1: a NaN",)


def test_every_setting_and_any_axis():
    """[setting, lr, seed]: the labels decide, wherever the axis stands."""
    values = torch.rand(2, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axes = {"setting": ["class", "task"], "opt.lr": [0.1, 0.2, 0.3], "seed": [3, 4, 5, 6, 7, 8]}
    R = values[..., None, None].expand(2, 3, 6, 2, 2).contiguous()
    runs = cl.Runs(axes, {"accuracy": R}, torch.ones(2, 3, 6, dtype=torch.bool), 1.0)
    found = runs.compare(0.1, 0.3, axis="opt.lr")
    assert [pair.at for pair in found] == [{"setting": "class"}, {"setting": "task"}]
    for s, pair in enumerate(found):
        assert pair.difference == pytest.approx((values[s, 0] - values[s, 2]).mean().item())
        assert pair.p == pytest.approx(scipy.stats.wilcoxon(values[s, 0] - values[s, 2]).pvalue)
    assert found.pairs[0].seeds == (3, 4, 5, 6, 7, 8)
    across = runs.compare("class", "task", axis="setting")
    assert [pair.at for pair in across] == [{"opt.lr": lr} for lr in (0.1, 0.2, 0.3)]
    assert across[1].difference == pytest.approx((values[0, 1] - values[1, 1]).mean().item())
    header, _, row, *_ = found.table().splitlines()
    assert header.startswith(
        "| opt.lr | against | setting | difference of average_accuracy | 95% interval | p (Wilcoxon) | p (Holm)"
    )
    assert row.startswith("| 0.1 | 0.3 | class | ")
    forgetting = runs.compare(0.1, 0.3, "forgetting", axis="opt.lr", test="t", confidence=0.9)
    assert "difference of forgetting | 90% interval | p (t test)" in forgetting.table()


def test_the_table_has_three_forms():
    found = RUNS.compare()
    assert r"\toprule" in found.table("latex")
    assert found._repr_html_().startswith("<table>")
    assert repr(found) == found.table()
    assert re.search(r"^\| ER \| naive \| \+0\.427 \| \[\+0\.359, \+0\.495\] \| 0\.016 \| 0\.047 \| 7 \|$", repr(found), re.M)


def test_labels_that_are_not_there():
    with pytest.raises(ValueError, match=r"^a: expected one of \['ER', 'DER\+\+', 'naive'\], got 'EWC'"):
        RUNS.compare("EWC", "ER")
    with pytest.raises(ValueError, match=r"^b: .*'ER' twice"):
        RUNS.compare("ER", "ER")
    with pytest.raises(ValueError, match=r"^a: .*since b is 'ER'"):
        RUNS.compare(b="ER")
    with pytest.raises(ValueError, match=r"^axis: expected one of"):
        RUNS.compare("ER", "DER++", axis="setting")
    with pytest.raises(ValueError, match=r"^axis: 'method' has one label"):
        RUNS.at(method=["ER"]).compare()

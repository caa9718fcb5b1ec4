"""Random grids: each path on its own scale, different points, and the same ones for the same key."""

from __future__ import annotations

import math

import pytest
import registry
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cl_func as cl

quick = settings(max_examples=40, deadline=None)
KEY = cl.key(3)


def values(n, path, within, key=KEY, **more):
    return [point[path] for point in cl.random_grid(n, {"other": (0.5, 2.0), path: within}, key=key, **more).points()]


def test_points_of_earlier_versions_stay():
    """What two numbers meant before there were scales, to the bit."""
    assert cl.random_grid(3, {"opt.lr": (1e-3, 1.0), "a": (0.1, 2)}, key=cl.key(0)).points() == [
        {"opt.lr": 0.004186995801704954, "a": 0.5705703969651226},
        {"opt.lr": 0.0682624646114859, "a": 0.39357940986552475},
        {"opt.lr": 0.4193630136905488, "a": 0.34938851240012575},
    ]
    for log, scale in ((True, cl.log), (False, cl.uniform)):
        assert values(20, "x", (0.1, 3.0), log=log) == values(20, "x", scale(0.1, 3.0), log=log)


def test_each_scale_by_its_quantiles():
    n = 4000
    logs, flat = values(n, "x", cl.log(1e-4, 1.0)), values(n, "x", cl.uniform(-5, 5))
    whole, chosen = values(n, "x", cl.integers(-2, 3)), values(n, "x", cl.choice([0.1, 5, 7]))
    for k in range(1, 4):
        assert sum(x < 10.0 ** (k - 4) for x in logs) / n == pytest.approx(k / 4, abs=0.04)
        assert sum(x < -5 + 2.5 * k for x in flat) / n == pytest.approx(k / 4, abs=0.04)
    assert {x: pytest.approx(n / 6, rel=0.15) for x in range(-2, 4)} == {x: whole.count(x) for x in range(-2, 4)}
    assert {x: pytest.approx(n / 3, rel=0.15) for x in (0.1, 5, 7)} == {x: chosen.count(x) for x in (0.1, 5, 7)}
    assert all(type(x) is int for x in whole)
    assert {type(x) for x in chosen} == {int, float}


@quick
@given(low=st.integers(-50, 50), size=st.integers(1, 12), seed=st.integers(0, 1000), data=st.data())
def test_points_are_different_and_all_can_be_had(low, size, seed, data):
    high, options = low + size, data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True))
    ranges = {"i": cl.integers(low, high), "c": cl.choice(options)}
    count = (size + 1) * len(options)
    all_points = cl.random_grid(count, ranges, key=cl.key(seed)).points()
    assert {(p["i"], p["c"]) for p in all_points} == {(i, c) for i in range(low, high + 1) for c in options}
    n = data.draw(st.integers(1, count))
    assert cl.random_grid(n, ranges, key=cl.key(seed)).points() == all_points[:n]  # more points begin with the fewer
    with pytest.raises(ValueError, match=f"n: there are only {count} different points, got {count + 1}"):
        cl.random_grid(count + 1, ranges, key=cl.key(seed))


def test_ranges_of_few_numbers_end():
    with pytest.raises(ValueError, match=r"n: .* draws gave . different points, fewer than 9; give wider ranges"):
        cl.random_grid(9, {"x": cl.uniform(1.0, math.nextafter(1.0, 2))}, key=KEY)


def test_tensors_are_chosen():
    points = cl.random_grid(2, {"w": cl.choice([torch.zeros(2), torch.ones(2)])}, key=KEY)
    assert sorted(point["w"].tolist() for point in points.points()) == [[0.0, 0.0], [1.0, 1.0]]


def test_a_random_grid_is_swept_and_its_best_point_is_set():
    strategy = cl.strategies.naive(registry.MODEL, cl.optim.sgd(0.1, momentum=0.5), batch_size=5)
    grid = cl.random_grid(3, {"opt.lr": cl.log(1e-3, 1e-1), "opt.momentum": cl.choice([0.0, 0.9])}, key=KEY)
    runs = cl.sweep(strategy, registry.BENCH, seeds=2, hparams=grid, compile=False, progress=False)
    runs.history.pop("class_accuracy")  # whether they give constant answers
    best = runs.best()
    assert best in grid.points()
    assert cl.tree.get(cl.tree.set(strategy.init(cl.key(0)), best), "opt.momentum") == best["opt.momentum"]
    torch.testing.assert_close(runs.at(**best).metric().mean(), runs.mean_ci()[0].max())
    assert {"opt.lr", "opt.momentum"} <= set(runs.to_pandas().columns)


def test_two_seeds_that_are_one_key_are_refused():
    strategy = cl.strategies.naive(registry.MODEL, registry.SGD)
    with pytest.raises(ValueError, match=r"seeds: two of \[-1, 18446744073709551615\] are one key, since they differ by 2\^64"):
        cl.sweep(strategy, registry.BENCH, seeds=[-1, 2**64 - 1], compile=False, progress=False)

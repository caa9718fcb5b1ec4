"""Successive halving: the rounds, what each is given, and what is left."""

from __future__ import annotations

import functools
import math
import pickle

import pytest
import torch
from made_sweeps import BENCH, STRATEGY, SWEEP, Recorded, forbidden, from_key

import cl_func as cl
from cl_func.select import halving

LONG = cl.streams.permuted(*cl.data.digits(), n_experiences=9, key=cl.key(0))
NINE = cl.grid({"opt.lr": [0.1, 0.2, 0.3], "momentum": [1, 2, 3]})


def test_rounds():
    assert halving.rounds(9, 3) == [9, 3]
    assert halving.rounds(10, 3) == [10, 4, 2]
    assert halving.rounds(16, 2) == [16, 8, 4, 2]
    assert halving.rounds(2, 5) == [2]
    assert halving.rounds(1, 2) == []
    for n in range(2, 200):
        for eta in (2, 3, 4, 7):
            sizes = halving.rounds(n, eta)
            assert sizes[0] == n
            assert 1 < sizes[-1] <= eta
            assert len(sizes) >= round(math.log(n, eta), 9)


def shapes(swept):
    return [
        (len(call["points"]), len(call["benchmark"].train), len(call["benchmark"].test), len(call["seeds"])) for call in swept.calls
    ]


def test_each_round_has_the_best_of_the_one_before_on_more_of_the_stream():
    swept = Recorded(lambda point: point["opt.lr"] + point["momentum"] / 100)
    point = cl.select.successive_halving().choose(STRATEGY, LONG, NINE, sweep=swept)
    assert shapes(swept) == [(9, 3, 3, 3), (3, 9, 9, 3)]
    assert swept.calls[1]["points"] == [{"opt.lr": 0.3, "momentum": m} for m in (3, 2, 1)]
    assert point == {"opt.lr": 0.3, "momentum": 3}
    assert [runs.shape for runs in point.searched] == [(9, 3), (3, 3)]
    words = "chosen on a held-out 10% of each experience, by successive halving, with the seeds 10000 to 10002"
    assert point.how == words
    assert {tuple(call["seeds"]) for call in swept.calls} == {(10000, 10001, 10002)}


def test_the_last_round_decides():
    def answer(point):  # the first is best at first, the third on the whole stream
        whole = len(swept.calls) > 1 and len(swept.calls[-1]["benchmark"].train) == 9
        return {0.1: 0.9, 0.2: 0.1, 0.3: 0.5, 0.4: 0.2}[point["opt.lr"]] if not whole else point["opt.lr"]

    swept = Recorded(answer)
    grid = cl.grid({"opt.lr": [0.1, 0.2, 0.3, 0.4]})
    assert cl.select.successive_halving(eta=2).choose(STRATEGY, LONG, grid, sweep=swept) == {"opt.lr": 0.3}
    assert shapes(swept) == [(4, 5, 5, 3), (2, 9, 9, 3)]


def test_the_first_round_has_enough_experiences():
    for least, expected in ((1, [2, 3, 5]), (3, [3, 3, 5]), (4, [4, 4, 5]), (9, [5, 5, 5])):
        swept = Recorded()
        cl.select.successive_halving(eta=2, least=least).choose(
            STRATEGY, BENCH, cl.grid({"opt.lr": [0.1, 0.2, 0.3, 0.4, 0.5]}), sweep=swept
        )
        assert [n for _, n, _, _ in shapes(swept)] == expected


def test_seeds_may_grow_instead():
    swept = Recorded(lambda point: point["opt.lr"])
    selection = cl.select.validation(seeds=9)
    cl.select.successive_halving(selection, resource="seeds").choose(STRATEGY, BENCH, NINE, sweep=swept)
    assert shapes(swept) == [(9, 5, 5, 3), (3, 5, 5, 9)]
    assert swept.calls[1]["seeds"][:3] == swept.calls[0]["seeds"]


def test_it_wraps_the_data_of_another_selection():
    swept = Recorded(lambda point: point["opt.lr"])
    four = cl.grid({"opt.lr": [0.1, 0.2, 0.3, 0.4]})
    first = cl.select.successive_halving(cl.select.first_experiences(4, seeds=1), eta=2, least=1)
    assert first.choose(STRATEGY, LONG, four, sweep=swept).how.startswith("chosen on a held-out 10% of the first 4 experiences, by")
    assert shapes(swept) == [(4, 2, 2, 1), (2, 4, 4, 1)]
    oracle = cl.select.successive_halving(cl.select.oracle(seeds=1), eta=2)
    assert "chosen on test data, by successive halving" in oracle.choose(STRATEGY, LONG, four, sweep=swept).how
    assert oracle.describe() == "chosen on test data, with 1 seed of its own, by successive halving"
    # Where train and test streams are cut differently, each keeps the same share.
    online = cl.streams.split_online(cl.streams.with_validation(BENCH, 0.1, key=cl.key(0)), 50)
    swept = Recorded()
    cl.select.successive_halving(eta=2).choose(STRATEGY, online, four, sweep=swept)
    n = len(online.train)
    assert shapes(swept) == [(4, math.ceil(n / 2), 3, 3), (2, n, 5, 3)]


def test_points_that_diverge_do_not_go_on():
    swept = Recorded(lambda point: point["opt.lr"], lambda point: point["opt.lr"] > 0.15)
    four = cl.grid({"opt.lr": [0.1, 0.2, 0.3, 0.4]})
    assert cl.select.successive_halving(eta=2).choose(STRATEGY, LONG, four, sweep=swept) == {"opt.lr": 0.1}
    assert swept.calls[1]["points"] == [{"opt.lr": 0.1}]
    nowhere = Recorded(diverged=lambda point: True)
    with pytest.raises(ValueError, match="best: there is nothing to choose from"):
        cl.select.successive_halving(eta=2).choose(STRATEGY, LONG, four, sweep=nowhere)


def test_real_rounds_without_the_test_stream(tmp_path):
    grid = cl.grid({"opt.lr": [1e-4, 1e-3, 1e-2, 0.1]})
    bench = cl.Benchmark(BENCH.train, cl.Stream(forbidden, 5))
    chooser = cl.select.successive_halving(cl.select.validation(seeds=2), eta=2)
    calls = []
    sweep = functools.partial(SWEEP, resume=tmp_path, tap=lambda *entry: calls.append(entry))
    points = [chooser.choose(STRATEGY, bench, grid, sweep=sweep) for _ in range(2)]
    assert points[0] == points[1] == {"opt.lr": 0.1}
    assert len(calls) == 4 * 2 + 2 * 2  # all that is run, once
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-0", "round-1"]
    # In the last round a run is one over the whole stream.
    last = points[0].searched[-1].at(**{"opt.lr": 0.1}, seed=10000)
    held = cl.streams.with_validation(BENCH, 0.1, key=cl.key(0))
    end = cl.fold(STRATEGY.update, cl.tree.set(STRATEGY.init(cl.key(10000)), {"opt.lr": 0.1}), held.train)
    accuracy = cl.evaluate(cl.models.mlp(64, hidden=(16,), n_classes=10), held.valid)(end)["accuracy"]
    torch.testing.assert_close(last["accuracy"][0, 0], accuracy, atol=0.02, rtol=0)


def test_a_benchmark_per_seed():
    point = cl.select.successive_halving(cl.select.validation(seeds=2), eta=2).choose(
        STRATEGY, from_key, cl.grid({"opt.lr": [1e-4, 1e-3, 0.1]}), sweep=SWEEP
    )
    assert point == {"opt.lr": 0.1}


def test_it_is_pickled_and_runs_nothing_for_one_point():
    made = cl.select.successive_halving(eta=4)
    assert pickle.loads(pickle.dumps(made)).describe() == made.describe()
    assert cl.select.successive_halving().choose(
        STRATEGY, BENCH, cl.grid({"opt.lr": [0.1]}), sweep=lambda *args, **options: forbidden(0)
    ) == {"opt.lr": 0.1}

"""Selections choose by their own data and seeds, and never look at the test stream."""

from __future__ import annotations

import functools
import pickle

import pytest
import torch
from made_sweeps import BENCH, MODEL, STRATEGY, SWEEP, TEST, TRAIN, Recorded, forbidden, from_key

import cl_func as cl
from cl_func.sweeps.chosen import Chosen

GRID = cl.grid({"opt.lr": [1e-4, 0.1]})
HELD_OUT = {
    "validation": cl.select.validation(0.1, seeds=2),
    "first_experiences": cl.select.first_experiences(2, seeds=2),
}


@pytest.mark.parametrize("name", HELD_OUT)
@pytest.mark.parametrize("per_seed", [False, True])
def test_the_test_stream_is_never_looked_at(name, per_seed):
    bench = from_key if per_seed else cl.Benchmark(BENCH.train, cl.Stream(forbidden, 5))
    point = HELD_OUT[name].choose(STRATEGY, bench, GRID, seeds=2, sweep=SWEEP)
    assert point == {"opt.lr": 0.1}
    assert "test" not in point.how
    with pytest.raises(AssertionError, match="was looked at"):
        cl.select.oracle(seeds=1).choose(STRATEGY, bench, GRID, seeds=2, sweep=SWEEP)


def test_a_test_stream_of_infinite_loss_changes_nothing():
    huge = cl.Dataset(torch.full_like(TEST.x, torch.finfo(torch.float32).max, dtype=torch.float32), TEST.y)
    bench = cl.Benchmark(BENCH.train, cl.streams.split_by_class(TRAIN, huge, n_experiences=5).test)
    assert not cl.evaluate(MODEL, bench.test)(STRATEGY.init(cl.key(0)))["loss"].isfinite().any()
    for selection in HELD_OUT.values():
        chosen = [selection.choose(STRATEGY, one, GRID, seeds=2, sweep=SWEEP) for one in (bench, BENCH)]
        assert chosen[0] == chosen[1]
        assert torch.equal(chosen[0].searched[0]["accuracy"], chosen[1].searched[0]["accuracy"])


def test_only_the_first_experiences_are_looked_at():
    def make(index: int) -> cl.Experience:
        assert index < 2, f"experience {index} was made"
        return BENCH.train[index]

    bench = cl.Benchmark(cl.Stream(make, 5), cl.Stream(forbidden, 5))
    point = HELD_OUT["first_experiences"].choose(STRATEGY, bench, GRID, sweep=SWEEP)
    assert point == {"opt.lr": 0.1}
    with pytest.raises(AssertionError, match="experience 2 was made"):
        HELD_OUT["validation"].choose(STRATEGY, bench, GRID, sweep=SWEEP)
    with pytest.raises(ValueError, match="k: expected at most the 5 experiences of the train stream, got 6"):
        cl.select.first_experiences(6).choose(STRATEGY, BENCH, GRID, sweep=SWEEP)


def test_the_choice_is_that_of_a_loop_written_out():
    grid = cl.grid({"opt.lr": [0.01, 0.1, 0.5]})
    point = cl.select.validation(0.2, seeds=2, key=cl.key(7)).choose(STRATEGY, BENCH, grid, seeds=3, sweep=SWEEP)
    held = cl.streams.with_validation(BENCH, 0.2, key=cl.key(7))
    means = {}
    for lr in (0.01, 0.1, 0.5):
        accuracies = []
        for seed in (10000, 10001):
            start = cl.tree.set(STRATEGY.init(cl.key(seed)), {"opt.lr": lr})
            end = cl.fold(STRATEGY.update, start, held.train)
            accuracies.append(cl.evaluate(MODEL, held.valid)(end)["accuracy"].mean())
        means[lr] = float(sum(accuracies) / 2)
    assert point == {"opt.lr": max(means, key=means.get)}
    (runs,) = point.searched
    assert runs["accuracy"].shape == (3, 2, 1, 5)  # measured at the end only
    assert runs["accuracy"].mean((1, 2, 3)).tolist() == pytest.approx(list(means.values()), abs=1e-5)


def test_the_seeds_are_none_of_those_of_the_report():
    for report, expected in (
        (5, [10000, 10001, 10002]),
        ([10000, 3, 10002], [10001, 10003, 10004]),
        (20000, [20000, 20001, 20002]),
    ):
        swept = Recorded()
        point = cl.select.validation().choose(STRATEGY, BENCH, GRID, seeds=report, sweep=swept)
        assert swept.calls[0]["seeds"] == expected
        assert all(str(seed) in point.how or seed == expected[1] for seed in expected)
    with pytest.raises(ValueError, match="seeds"):
        cl.select.validation().choose(STRATEGY, BENCH, GRID, seeds=[1, 1], sweep=Recorded())


def test_what_is_chosen_is_the_best_of_the_metric():
    grid = cl.zipped({"opt.lr": [0.1, 0.2, 0.3], "alpha": [1.0, 2.0, 3.0]})
    swept = Recorded(lambda point: {0.1: 0.4, 0.2: 0.7, 0.3: 0.6}[point["opt.lr"]])
    assert cl.select.validation().choose(STRATEGY, BENCH, grid, sweep=swept) == {"opt.lr": 0.2, "alpha": 2.0}
    worst = cl.select.validation(metric=lambda R: R[-1].min(), largest=False)
    assert worst.choose(STRATEGY, BENCH, grid, sweep=swept) == {"opt.lr": 0.1, "alpha": 1.0}
    assert swept.calls[-1]["every"] == 1  # a metric may ask for all times
    with pytest.raises(ValueError, match="largest"):
        cl.select.validation(metric=lambda R: R[-1].min()).choose(STRATEGY, BENCH, grid, sweep=swept)
    lost = Recorded(lambda point: point["opt.lr"], lambda point: point["opt.lr"] > 0.2)
    assert cl.select.validation().choose(STRATEGY, BENCH, grid, sweep=lost)["opt.lr"] == 0.2  # not the one that diverged


def test_a_valid_stream_is_taken_as_it_is():
    held = cl.streams.with_validation(BENCH, 0.3, key=cl.key(1))
    swept = Recorded()
    point = cl.select.validation().choose(STRATEGY, held, GRID, sweep=swept)
    seen = swept.calls[0]["benchmark"]
    assert (seen.train, seen.test, seen.valid) == (held.train, held.valid, None)
    assert point.how == "chosen on the validation stream, with the seeds 10000 to 10002"
    point = cl.select.first_experiences(3).choose(STRATEGY, held, GRID, sweep=swept)
    seen = swept.calls[1]["benchmark"]
    assert [len(exp) for exp in seen.train] == [len(held.train[i]) for i in range(3)]
    assert [len(exp) for exp in seen.test] == [len(held.valid[i]) for i in range(3)]
    assert point.how == "chosen on the first 3 experiences of the validation stream, with the seeds 10000 to 10002"
    for choose in (cl.select.validation(0.2).choose, cl.select.successive_halving(cl.select.validation(0.2)).choose):
        each = choose(STRATEGY, lambda key: cl.streams.with_validation(from_key(key), 0.3, key=key), GRID, sweep=Recorded())
        assert each.how.startswith("chosen on the validation stream")
        assert choose(STRATEGY, from_key, GRID, sweep=Recorded()).how.startswith("chosen on a held-out 20% of each experience")
    online = cl.streams.split_online(held, 50)
    cl.select.validation().choose(STRATEGY, online, GRID, sweep=swept)
    assert (swept.calls[2]["benchmark"].train, swept.calls[2]["benchmark"].test) == (online.train, held.valid)
    with pytest.raises(ValueError, match="k: it is not known which of the 5 experiences"):
        cl.select.first_experiences(3).choose(STRATEGY, online, GRID, sweep=swept)


def test_it_says_how_it_chose():
    said = {
        cl.select.validation(): "chosen on a held-out 10% of each experience, with the seeds 10000 to 10002",
        cl.select.validation(0.25, "forgetting", seeds=1): (
            "chosen on a held-out 25% of each experience by forgetting, with the seed 10000"
        ),
        cl.select.first_experiences(1, seeds=2): ("chosen on a held-out 10% of the first experience, with the seeds 10000, 10001"),
        cl.select.oracle(("average_loss", "loss"), seeds=1): "chosen on test data by average_loss of loss, with the seed 10000",
    }
    for selection, words in said.items():
        if selection.metric is None:
            assert selection.choose(STRATEGY, BENCH, GRID, sweep=Recorded()).how == words
        assert selection.describe().startswith(words.partition(", with")[0])
        assert pickle.loads(pickle.dumps(selection)).describe() == selection.describe()


@pytest.mark.parametrize("format", ["markdown", "latex", "html"])
def test_every_table_of_an_oracle_says_so(format):
    point = cl.select.oracle(seeds=1).choose(STRATEGY, BENCH, GRID, seeds=1, sweep=SWEEP)
    runs = SWEEP(STRATEGY, BENCH, seeds=1, hparams=point)
    both = cl.Runs.join({"ER": runs, "other": SWEEP(STRATEGY, BENCH, seeds=1)})
    for one in (runs, both, both.at(method="ER")):
        assert "chosen on test data" in one.table(format=format)
        assert "chosen on test data" in repr(one)


def test_a_probe_of_ones_own_measures_the_stream_of_the_selection():
    evaluate = functools.partial(cl.evaluate, MODEL, mask="experience")
    selection = cl.select.validation(seeds=1, probe=evaluate)
    (runs,) = selection.choose(STRATEGY, BENCH, GRID, sweep=SWEEP).searched
    (plain,) = cl.select.validation(seeds=1).choose(STRATEGY, BENCH, GRID, sweep=SWEEP).searched
    assert (runs["accuracy"] >= plain["accuracy"]).all()
    assert (runs["accuracy"] > plain["accuracy"]).any()
    with pytest.raises(ValueError, match="probe: a benchmark that is made for each seed"):
        selection.choose(STRATEGY, from_key, GRID, sweep=SWEEP)
    # One that the sweep has already is of the report, and would measure its test stream.
    peeking = functools.partial(SWEEP, probe=lambda state, exp: forbidden(0))
    assert HELD_OUT["validation"].choose(STRATEGY, BENCH, GRID, sweep=peeking) == {"opt.lr": 0.1}
    nameless = cl.Strategy(STRATEGY.init, STRATEGY.update)
    with pytest.raises(ValueError, match="strategy: it names no model to measure"):
        HELD_OUT["validation"].choose(nameless, BENCH, GRID, sweep=SWEEP)


def test_it_resumes_in_a_folder_of_its_own(tmp_path):
    calls = []
    kept = functools.partial(SWEEP, resume=tmp_path, tap=lambda time, entry, labels: calls.append(labels["seed"]))
    points = [HELD_OUT["validation"].choose(STRATEGY, BENCH, GRID, seeds=2, sweep=kept) for _ in range(2)]
    assert points[0] == points[1]
    assert torch.equal(points[0].searched[0]["accuracy"], points[1].searched[0]["accuracy"])
    assert sorted(calls) == [10000, 10000, 10001, 10001]  # the second time nothing is run
    kept(STRATEGY, BENCH, seeds=2, hparams=points[0])  # the report has the folder for itself
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["choosing"]
    at = functools.partial(SWEEP, checkpoint=cl.Checkpoint(tmp_path / "points"))
    assert HELD_OUT["validation"].choose(STRATEGY, BENCH, GRID, seeds=2, sweep=at) == points[0]
    assert [path.name for path in (tmp_path / "points").iterdir()] == ["choosing"]


def test_nothing_is_run_where_there_is_nothing_to_choose():
    for grid in (cl.grid({"opt.lr": [0.3]}), cl.Grid()):
        point = cl.select.validation().choose(STRATEGY, BENCH, grid, sweep=lambda *args, **options: forbidden(0))
        assert (point, point.how) == (grid.points()[0], "not chosen: there was one point")
        assert isinstance(point, Chosen)


def test_lanes_do_not_matter():
    alone = functools.partial(cl.sweep, compile=False, progress=False, lanes=1)
    points = [HELD_OUT["validation"].choose(STRATEGY, from_key, GRID, sweep=sweep) for sweep in (SWEEP, alone)]
    assert points[0] == points[1]
    torch.testing.assert_close(points[0].searched[0]["loss"], points[1].searched[0]["loss"], rtol=1e-4, atol=1e-5)

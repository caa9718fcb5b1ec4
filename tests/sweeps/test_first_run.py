"""The first run of a sweep is made and checked once, and decides how to run the others; on an executor a worker decides."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pickle

import pytest
import registry
import torch

import cl_func as cl
from cl_func import testing
from cl_func.sweeps import autotune, remote

BENCH, MODEL, OPT = registry.BENCH, registry.MODEL, registry.SGD
NAIVE = cl.strategies.naive(MODEL, OPT, batch_size=5)


class Counting:
    """A function that counts its calls by their argument."""

    def __init__(self, function):
        self.function, self.calls = function, []

    def __call__(self, key):
        self.calls.append(int(key))
        return self.function(key)


@pytest.mark.parametrize("seeds", [3, [5, 6, 7]])
@pytest.mark.parametrize("compile", [False, True, "auto"])
@pytest.mark.parametrize("lanes", [1, 2, "auto"])
def test_each_run_is_made_once(lanes, compile, seeds):
    """However the sweep is run, each initial state and each benchmark is made once, and only for runs that are trained."""
    init, benchmark = Counting(NAIVE.init), Counting(lambda key: BENCH)
    grid = cl.grid({"opt.lr": [0.1, 0.05]})
    strategy = cl.Strategy(init, NAIVE.update, MODEL)
    cl.sweep(strategy, benchmark, seeds=seeds, hparams=grid, lanes=lanes, compile=compile, progress=True)
    numbers = range(seeds) if isinstance(seeds, int) else seeds
    assert sorted(init.calls) == sorted(2 * [int(cl.key(seed)) for seed in numbers])
    # A chunk that is not full repeats its last run.
    assert len(set(benchmark.calls)) == 3
    assert len(benchmark.calls) == 6


def test_a_folder_takes_no_state_more_than_a_sweep(tmp_path):
    """Of the initial states the folder's fingerprint has that of seed 0, which need not be made again if seed 0 is the first."""
    init = Counting(NAIVE.init)
    strategy = cl.Strategy(init, NAIVE.update, MODEL)
    cl.sweep(strategy, BENCH, seeds=2, lanes=2, compile=False, progress=False, resume=tmp_path)
    assert sorted(init.calls) == sorted(int(cl.key(seed)) for seed in range(2))


def test_a_value_that_cannot_be_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"opt\.rate"):
        cl.sweep(NAIVE, BENCH, hparams=cl.grid({"opt.rate": [0.1]}), seeds=1, resume=tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


def test_a_folder_is_of_any_device(tmp_path):
    """What was run where `init` makes the states goes on when a device is given, and the other way round."""
    asked = {"lanes": 2, "compile": False, "progress": False, "resume": tmp_path}
    for benchmark in (BENCH, lambda key: BENCH):
        for device, n in ((None, 1), ("cpu", 2), (None, 3)):
            folder = tmp_path / type(benchmark).__name__
            runs = cl.sweep(NAIVE, benchmark, seeds=n, device=device, **{**asked, "resume": folder})
            assert bool(runs.finished.all())
        assert len(list(folder.glob("chunk-*"))) == 3


def test_runs_are_pickled():
    """With what trains a run again."""
    runs = cl.sweep(NAIVE, BENCH, seeds=2, lanes=2, compile=False, progress=False)
    back = pickle.loads(pickle.dumps(runs))
    assert torch.equal(back["loss"], runs["loss"])
    testing.laws.assert_equal(back.state(seed=1), runs.state(seed=1), "pickled")


class Elsewhere(concurrent.futures.Executor):
    """Runs tasks in this thread, and records which tasks of a worker they were."""

    def __init__(self):
        self.tasks = []

    def submit(self, function, /, *arguments):
        self.tasks.append(arguments[2])
        future = concurrent.futures.Future()
        function, arguments = pickle.loads(pickle.dumps((function, arguments)))
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.mark.parametrize(("lanes", "compile", "asked"), [("auto", False, 1), (2, "auto", 1), ("auto", "auto", 1), (2, False, 0)])
def test_a_worker_chooses_how_to_run(lanes, compile, asked, monkeypatch):
    """Steps are timed on the worker, not here; if there is nothing to choose, no such task is sent."""
    inside = []
    plain = remote._Worker.autotune
    monkeypatch.setattr(remote._Worker, "autotune", lambda *a: (inside.append(1), plain(*a), inside.pop())[1])
    timed = []
    measured = autotune.seconds_per_call
    monkeypatch.setattr(autotune, "seconds_per_call", lambda *a: (timed.append(len(inside)), measured(*a))[1])
    executor = Elsewhere()
    runs = cl.sweep(NAIVE, BENCH, seeds=4, lanes=lanes, compile=compile, executor=executor, progress=False)
    assert executor.tasks.count("autotune") == asked
    assert executor.tasks[asked:] == ["train"] * (len(executor.tasks) - asked)
    assert set(timed) <= {1}
    assert bool(timed) == bool(asked)
    here = cl.sweep(NAIVE, BENCH, seeds=4, compile=False, progress=False)
    torch.testing.assert_close(runs["loss"], here["loss"], rtol=1e-4, atol=1e-5)


def spoiled(spoil):
    """A strategy whose loss has an additional term."""
    plain = cl.losses.cross_entropy(MODEL)

    def loss(params, state, exp):
        value, state = plain(params, state, exp)
        return value + spoil(value), state

    return cl.Strategy(NAIVE.init, cl.minibatches(cl.train_step(loss, OPT), batch_size=5), MODEL)


def fail(value):
    raise ZeroDivisionError("mine")


def test_what_a_worker_finds_is_said_here():
    """This process warns of the reason for a single lane; an update that does not work raises its own error."""
    asked = {"seeds": 3, "compile": False, "progress": False}
    with pytest.warns(UserWarning, match="one run a chunk, since the update cannot be vmapped: the value of a tensor"):
        cl.sweep(spoiled(lambda value: 0 * value.item()), BENCH, executor=Elsewhere(), **asked)
    with pytest.raises(ZeroDivisionError, match="mine"):
        cl.sweep(spoiled(fail), BENCH, executor=Elsewhere(), **asked)


def die(state, exp):
    """An update whose worker is killed."""
    if multiprocessing.parent_process() is not None:
        os._exit(1)
    return state


def test_a_worker_that_is_lost_while_it_chooses_is_named():
    context = multiprocessing.get_context("spawn")
    with (
        concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool,
        pytest.raises(RuntimeError, match="the worker that timed a few steps of seed=0 was lost"),
    ):
        cl.sweep(cl.Strategy(NAIVE.init, die, MODEL), BENCH, seeds=4, compile=False, executor=pool, progress=False)

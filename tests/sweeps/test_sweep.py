"""Sweeps equal single runs however they are cut, compiled or sent, and lose nothing to interrupts, crashes or killed workers."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import registry
import torch

import cl_func as cl
from cl_func import sweep as sweep_function
from cl_func import testing
from cl_func.compiler import program
from cl_func.core.nodes import calls as leaf_calls
from cl_func.sweeps.autotune import cores

BENCH, MODEL = registry.BENCH, registry.MODEL
STRATEGY = cl.strategies.er_lwf(MODEL, registry.SGD, capacity=6, replay_size=4, batch_size=5, epochs=2)
GRID = cl.grid({"opt.lr": [0.01, 0.1], "lwf.strength": [0.5, 2.0]})
PLAIN = {"compile": False, "progress": False}


@functools.cache
def singles():
    """Every run of the sweep by itself: [lr, strength, seed, time, T]."""
    probe, rows = cl.evaluate(MODEL, BENCH.test), []
    for point in GRID.points():
        for seed in range(3):
            state = cl.tree.set(STRATEGY.init(cl.key(seed)), point)
            rows.append(cl.scan(STRATEGY.update, state, BENCH.train, probe)[1]["loss"])
    return torch.stack(rows).reshape(2, 2, 3, 2, 2)


def same(runs):
    assert list(runs.axes) == ["opt.lr", "lwf.strength", "seed"]
    assert bool(runs.finished.all())
    torch.testing.assert_close(runs["loss"], singles(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("lanes", [1, 5, 12, "auto"])
def test_equals_single_runs_for_any_chunks(lanes):
    same(cl.sweep(STRATEGY, BENCH, seeds=3, hparams=GRID, lanes=lanes, **PLAIN))


def test_only_cores_that_the_process_may_use_are_counted(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert cores() == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


def test_compiled_on_threads_equals_single_runs():
    runs = cl.sweep(STRATEGY, BENCH, seeds=3, hparams=GRID, lanes=4, compile=True, progress=False)
    same(runs)
    assert torch.get_num_threads() == 1  # as it was before


def test_two_sweeps_compile_once_each_leaf(monkeypatch):
    """No program per experience, epoch or chunk: one per leaf and shape of its inputs."""
    made = []
    original = program.Program.__init__
    monkeypatch.setattr(program.Program, "__init__", lambda self, *a: made.append(a) or original(self, *a))
    update = cl.compile(cl.vmap(cl.strategies.naive(MODEL, registry.SGD, batch_size=5).update))
    strategy = cl.strategies.naive(MODEL, registry.SGD, batch_size=5)
    monkeypatch.setattr(
        sweep_function.__globals__["SweepJob"], "prepare", lambda self: (update, cl.vmap(cl.evaluate(MODEL, unequal.test)))
    )
    unequal = cl.Benchmark(
        cl.experience.__globals__["stream"]([cl.experience(BENCH.train[0].source, torch.arange(n)) for n in (12, 15, 14)]),
        BENCH.test,
    )
    for seeds in ([0, 1], [2, 3, 4]):
        cl.sweep(strategy, unequal, seeds=seeds, lanes=2, compile=True, progress=False)
    assert len(made) == 1 + 3  # the step once, the order of rows once per length


@functools.cache
def datasets():
    x, y = cl.random.split(cl.key(5))
    labels = torch.arange(40) % 4
    return cl.Dataset(cl.random.normal(x, (40, 6)), labels), cl.Dataset(cl.random.normal(y, (40, 6)), labels)


def own_order(key):
    return cl.streams.split_by_class(*datasets(), n_experiences=2, key=key)


def test_a_class_order_per_seed():
    """A benchmark per key: every run has its own stream over one shared copy of the data."""
    strategy = cl.strategies.naive(MODEL, registry.SGD, batch_size=5)
    together = cl.sweep(strategy, own_order, seeds=4, lanes=4, **PLAIN)
    alone = cl.sweep(strategy, own_order, seeds=4, lanes=1, **PLAIN)
    torch.testing.assert_close(together["loss"], alone["loss"], rtol=1e-3, atol=1e-4)
    orders = {tuple(own_order(cl.random.fold_in(cl.key(seed), 1 << 40)).train[0].classes.tolist()) for seed in range(4)}
    assert len(orders) > 1


def test_zipped_and_random_grids():
    zipped = cl.zipped({"opt.lr": [0.01, 0.1], "lwf.strength": [0.5, 2.0]})
    runs = cl.sweep(STRATEGY, BENCH, seeds=3, hparams=zipped, **PLAIN)
    assert runs.shape == (2, 3)
    torch.testing.assert_close(runs["loss"], singles()[[0, 1], [0, 1]], rtol=1e-3, atol=1e-4)
    drawn = cl.random_grid(50, {"opt.lr": (1e-3, 1e-1)}, key=cl.key(0))
    rates = torch.tensor([point["opt.lr"] for point in drawn.points()])
    assert ((rates >= 1e-3) & (rates < 1e-1)).all()
    assert 15 < (rates < 1e-2).sum() < 35
    assert drawn.points() == cl.random_grid(50, {"opt.lr": (1e-3, 1e-1)}, key=cl.key(0)).points()


def test_leaf_calls_counts_what_a_run_makes():
    calls = []

    def leaf(state, exp):
        calls.append(1)
        return state

    for update in (
        cl.compose(leaf, cl.minibatches(leaf, batch_size=4, epochs=3, shuffle=False), cl.repeat(leaf, 2)),
        cl.minibatches(cl.compose(leaf, leaf), batch_size=4, iterations=5),
        cl.minibatches(leaf, batch_size=None, epochs=2),
        cl.at("opt", leaf),
    ):
        calls.clear()
        update(registry.init(cl.key(0)), BENCH.train[0])
        loops = sum(isinstance(n, cl.core.Minibatches) for n in [update, *getattr(update, "updates", ())])
        orders = leaf_calls(update, 14) - len(calls)
        assert 0 <= orders <= 3 * loops  # the order of rows is a leaf of its own
    assert leaf_calls(cl.minibatches(leaf, batch_size=4, epochs=3), 14) == 3 * (4 + 1)


def test_runs(tmp_path):
    runs = cl.sweep(STRATEGY, BENCH, seeds=3, hparams=GRID, **PLAIN)
    mean, half = runs.mean_ci()
    assert mean.shape == half.shape == (2, 2)
    torch.testing.assert_close(mean, runs["accuracy"][..., -1, :].mean(-1).mean(-1))
    best = runs.best()
    where = tuple(runs.axes[name].index(label) for name, label in best.items())
    assert mean[where] == mean.max()
    assert runs.table().count("±") == 4
    frame = runs.to_pandas()
    assert len(frame) == 2 * 2 * 3 * 2 * 2
    assert frame["accuracy"].mean() == pytest.approx(runs["accuracy"].mean().item())
    final = runs.state(seed=2, **{"opt.lr": 0.1, "lwf.strength": 0.5})
    torch.testing.assert_close(cl.evaluate(MODEL, BENCH.test)(final)["loss"], runs["loss"][1, 0, 2, -1], rtol=1e-3, atol=1e-4)
    runs.save(tmp_path / "runs.npz")
    again = cl.Runs.load(tmp_path / "runs.npz")
    assert again.axes == runs.axes
    assert all(torch.equal(again[name], runs[name]) or again[name].isnan().any() for name in runs.history)
    for name, picture in {"timeline": runs.plot_timeline(), "grid": runs.plot_grid(), "matrix": runs.plot_matrix()}.items():
        picture.savefig(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match="cannot run again"):
        again.state(seed=0)
    with pytest.raises(ValueError, match=r"no such axis; there is opt\.lr"):
        runs.state(lr=1)
    with pytest.raises(ValueError, match="got 'accurate'"):
        runs.metric("accurate")


def test_process_pool():
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        same(cl.sweep(STRATEGY, BENCH, seeds=3, hparams=GRID, lanes=6, executor=pool, **PLAIN))


def test_dask():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        same(cl.sweep(STRATEGY, BENCH, seeds=3, hparams=GRID, lanes=6, executor=client.get_executor(), **PLAIN))


def test_submitit(tmp_path):
    submitit = pytest.importorskip("submitit")
    executor = submitit.LocalExecutor(folder=tmp_path)
    executor.update_parameters(timeout_min=5)
    same(cl.sweep(STRATEGY, BENCH, seeds=3, hparams=GRID, lanes=6, executor=executor, **PLAIN))


class Killer:
    """A probe that kills its process the first time it is asked about a certain learning rate."""

    def __init__(self, folder, rate):
        self.mark, self.rate, self.parent = Path(folder) / "killed", rate, os.getpid()

    def __call__(self, state, exp):
        if abs(float(state.opt.lr) - self.rate) < 1e-6 and not self.mark.exists() and os.getpid() != self.parent:
            self.mark.write_text("once")
            os.kill(os.getpid(), signal.SIGKILL)
        return {"lr": state.opt.lr}


def test_a_killed_worker_is_named_and_resume_completes(tmp_path):
    sweep = functools.partial(
        cl.sweep, STRATEGY, BENCH, seeds=2, hparams=cl.grid({"opt.lr": [0.01, 0.1]}), lanes=1, resume=tmp_path / "kept", **PLAIN
    )
    probe = Killer(tmp_path, 0.1)
    context = multiprocessing.get_context("spawn")
    with (
        concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool,
        pytest.raises(RuntimeError, match=r"lost their worker: .*opt\.lr=0\.1, seed=0.*sweep again"),
    ):
        sweep(probe=probe, executor=pool)
    runs = sweep(probe=probe)
    assert bool(runs.finished.all())
    torch.testing.assert_close(runs["lr"][:, 0, 0], torch.tensor([0.01, 0.1]))


def test_resume_does_no_chunk_again(tmp_path):
    counted = []

    def probe(state, exp):
        counted.append(1)
        return {"key": state.key}

    sweep = functools.partial(cl.sweep, STRATEGY, BENCH, hparams=GRID, probe=probe, resume=tmp_path, **PLAIN)
    first = sweep(seeds=3, lanes=1)
    n = len(counted)
    again = sweep(seeds=3, lanes=4)
    assert len(counted) == n
    assert torch.equal(first["key"], again["key"])
    more = cl.sweep(STRATEGY, BENCH, seeds=4, hparams=cl.grid({}), probe=probe, lanes=1, resume=tmp_path, **PLAIN)
    assert len(counted) == n + 4 * len(BENCH.train)  # without the grid's values these are other runs
    assert bool(more.finished.all())
    naive = cl.strategies.naive(MODEL, registry.SGD, batch_size=5)
    with pytest.raises(ValueError, match="holds another sweep"):
        cl.sweep(naive, BENCH, seeds=3, hparams=cl.grid({}), probe=probe, resume=tmp_path, **PLAIN)


def test_an_interrupt_keeps_what_is_finished(tmp_path):
    done = []

    def probe(state, exp):
        done.append(1)
        if len(done) == 7:
            raise KeyboardInterrupt
        return {"key": state.key, "accuracy": torch.zeros(2)}

    with pytest.warns(UserWarning, match="interrupted; 3 of 12 runs are finished"):
        runs = cl.sweep(STRATEGY, BENCH, seeds=3, hparams=GRID, probe=probe, lanes=1, resume=tmp_path, **PLAIN)
    assert runs.finished.sum() == 3
    assert runs["accuracy"].isnan().flatten(1).any()
    ax = runs.plot_timeline()
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert [len(line.get_xdata()) for line in ax.lines if len(line.get_xdata())] == [2]  # of the one point that has runs
    assert [name.split(" (")[1] for name in names if "unfinished" in name] == ["3 of 3 unfinished)"] * 3


def test_a_resumed_sweep_gives_back_every_history_under_its_name(tmp_path):
    """A folder gives back what it was given: names with dots, in other scripts, and names that the axes have."""

    def probe(state, exp):
        lr, strength = state.opt.lr, state.lwf.strength
        return {
            "z": strength,
            "seed": state.key,
            "a": {"b.c": lr, "é": (lr + strength)[None]},
            "opt.lr": lr > 0.05,
            "0": lr.double(),
        }

    first, again = (
        cl.sweep(STRATEGY, BENCH, seeds=[5, 3], hparams=GRID, probe=probe, lanes=3, resume=tmp_path, **PLAIN) for _ in range(2)
    )
    assert repr(again.axes) == repr(first.axes)
    assert cl.tree.difference(again.history, first.history) is None
    assert list(again.history) == list(first.history) == ["0", "a.b.c", "a.é", "opt.lr", "seed", "z"]
    assert bool((again["z"] == torch.tensor([0.5, 2.0])[:, None, None]).all())
    assert bool((again["a.b.c"] == torch.tensor([0.01, 0.1])[:, None, None, None]).all())
    testing.check_round_trip(again)


def test_a_failing_run_is_not_hidden():
    def probe(state, exp):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        cl.sweep(STRATEGY, BENCH, seeds=1, probe=probe, **PLAIN)


@pytest.mark.parametrize("lanes", [1, 2])
def test_two_histories_of_one_name_are_refused_at_once(tmp_path, lanes):
    """One of them would be lost. A checkpoint with them could not be read."""
    entries = []

    def probe(state, exp=None):
        return {"valid": {"loss": state.opt.lr}, "valid.loss": 2 * state.opt.lr}

    both = r"probe: \['valid'\]\['loss'\] and \['valid.loss'\] both have the path 'valid.loss'; rename a key that contains a dot"
    with pytest.raises(ValueError, match=both):
        cl.sweep(STRATEGY, BENCH, seeds=2, probe=probe, tap=lambda *entry: entries.append(entry), lanes=lanes, compile=False)
    assert not entries
    with pytest.raises(ValueError, match=both):
        cl.scan(STRATEGY.update, STRATEGY.init(cl.key(0)), BENCH.train, probe, checkpoint=cl.Checkpoint(tmp_path, every=1))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: cl.sweep(STRATEGY, BENCH, seeds=0), ValueError, "seeds: .* at least 1, got 0"),
        (lambda: cl.sweep(STRATEGY, BENCH, seeds=[1, 1]), ValueError, "distinct integers"),
        (lambda: cl.sweep(STRATEGY, BENCH, lanes=0), ValueError, "lanes"),
        (lambda: cl.sweep(cl.Strategy(STRATEGY.init, STRATEGY.update), BENCH), ValueError, "probe: the strategy names no model"),
        (lambda: cl.sweep(STRATEGY, BENCH, hparams=cl.grid({"opt.rate": [1.0]})), ValueError, "'opt.rate'.*there is lr"),
        (lambda: cl.sweep(STRATEGY, BENCH, hparams=cl.grid({"opt.count": [1.5]})), TypeError, "opt.count"),
        (lambda: cl.grid([1]), TypeError, "values: expected a mapping"),
        (lambda: cl.grid({"opt.lr": 0.1}), ValueError, "'opt.lr' needs a sequence"),
        (lambda: cl.grid({"opt.lr": [0.1, 0.1]}), ValueError, "occurs twice: 0.1"),
        (lambda: cl.zipped({"a": [1], "b": [1, 2]}), ValueError, "same number of values"),
        (lambda: cl.random_grid(3, {"a": (0.0, 1.0)}, key=cl.key(0)), ValueError, "low > 0"),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_numpy_and_tensor_values_become_labels(tmp_path):
    """Labels of runs are Python numbers, or lists of them, so that they can be looked up and saved."""
    values = {"opt.lr": np.array([0.1, 0.2], dtype=np.float32), "model.params.2.bias": [torch.zeros(4), torch.ones(4)]}
    runs = cl.sweep(STRATEGY, BENCH, seeds=np.array([3, 5]), hparams=cl.grid(values), **PLAIN)
    assert runs.axes["seed"] == [3, 5]
    assert runs.axes["model.params.2.bias"] == [[0.0] * 4, [1.0] * 4]
    runs.save(tmp_path / "runs.npz")
    assert cl.Runs.load(tmp_path / "runs.npz").axes == runs.axes
    state = runs.state(seed=5, **{"opt.lr": runs.axes["opt.lr"][1], "model.params.2.bias": [1.0] * 4})
    testing.assert_equal(cl.evaluate(STRATEGY.model, BENCH.test)(state)["accuracy"], runs["accuracy"][1, 1, 1, -1], "label")


def test_hypergradient_equals_finite_differences():
    """Forward mode through a whole run: the final loss with respect to the strength of LwF."""
    strategy = cl.strategies.lwf(cl.models.mlp(6, hidden=(5,), n_classes=4), cl.optim.sgd(0.5), batch_size=7, epochs=3)
    double = cl.tree.map(lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, strategy.init(cl.key(0)))
    source = cl.tree.map(lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, BENCH.train[0].source)
    train = [cl.tree.replace(exp, source=source) for exp in BENCH.train]
    probe = cl.evaluate(strategy.model, train)

    def final_loss(strength):
        return probe(cl.fold(strategy.update, cl.tree.set(double, {"lwf.strength": strength}), train))["loss"].mean()

    at, step = torch.tensor(1.0, dtype=torch.float64), 1e-5
    value, slope = torch.func.jvp(final_loss, (at,), (torch.ones_like(at),))
    torch.testing.assert_close(value, final_loss(at))
    torch.testing.assert_close(slope, (final_loss(at + step) - final_loss(at - step)) / (2 * step), rtol=1e-5, atol=1e-8)
    assert slope.abs() > 1e-4


@cl.state
class Numbers(cl.Agent):
    plain: float
    size: int = cl.static()


@pytest.mark.parametrize(
    ("path", "match"), [("size", "hparams: 'size': expected .* tensor, .* got 3"), ("plain", "strategy.init: .* 'plain'")]
)
def test_what_is_swept_must_be_a_tensor(path, match):
    value = torch.tensor(0.5) if path == "size" else 0.5

    def init(key):
        return Numbers(key=key, plain=value, size=3)

    strategy = cl.Strategy(init, lambda state, exp: state)
    with pytest.raises(TypeError, match=match):
        cl.sweep(strategy, BENCH, seeds=2, hparams=cl.grid({path: [1, 2]}), probe=lambda s, e: s.key, progress=False)


def test_what_is_no_part_of_the_state_is_compared():
    method = cl.strategies.er(registry.MODEL, registry.SGD, capacity=5, replay_size=2)
    with pytest.raises(
        ValueError,
        match=r"hparams: path 'capacity': no 'capacity' in ERAgent; .* Only numbers in the state .* cl\.compare\(\{'20': er",
    ):
        cl.sweep(method, BENCH, seeds=2, hparams=cl.grid({"capacity": [10, 20]}), progress=False)
    with pytest.raises(ValueError, match=r"Did you mean opt.lr\?$"):
        cl.sweep(method, BENCH, seeds=2, hparams=cl.grid({"lr": [0.1, 0.2]}), progress=False)


def test_as_many_entries_as_experiences_need_not_be_those_after_them():
    """Of an online stream of 2 tasks, measured twice, but not at their ends."""
    bench = cl.streams.split_online(registry.BENCH, 4)
    tasks, pieces = len(bench.test), len(bench.train)
    every = -(-pieces // tasks)
    method = cl.strategies.naive(registry.MODEL, registry.SGD)
    runs = cl.sweep(method, bench, seeds=2, every=every, compile=False, progress=False)
    assert runs["accuracy"].shape[-2:] == (tasks, tasks)
    assert (runs.attributes["every"], runs.attributes["experiences"]) == (every, pieces)
    joined = cl.Runs.join({"a": runs, "b": runs})
    for one in (runs, joined, joined.at(method="a")):
        assert torch.equal(
            one.metric(), one["accuracy"][..., -1, :].mean(-1)
        )  # of all experiences, as of any other number of entries
        for name in ("forgetting", "learning_accuracy", "average_anytime_accuracy"):
            with pytest.raises(
                ValueError, match=rf"metric: {name} needs one time per experience.*at other moments than their ends"
            ):
                one.metric(name)
        assert one.plot_timeline().get_xlabel() == "time"
        assert "time" in {ax.get_ylabel() for ax in one.plot_matrix().figure.axes}
        with pytest.raises(ValueError, match="seen: the entries are not those after each experience"):
            one.plot_forgetting()
    usual = cl.sweep(method, registry.BENCH, seeds=2, compile=False, progress=False)
    for one in (cl.Runs.join({"a": usual, "b": runs}), cl.Runs.join({"x": cl.Runs.join({"a": usual, "b": runs})}, axis="setting")):
        with pytest.raises(ValueError, match="at other moments than their ends"):
            one.metric("forgetting")
        assert one.plot_timeline().get_xlabel() == "time"
    assert cl.Runs.join({"a": usual, "b": usual}).metric("forgetting").shape == (2, 2)
    assert usual.metric("forgetting").shape == (2,)
    assert usual.plot_timeline().get_xlabel() == "experiences trained on"


def test_timelines_of_what_is_measured_after_each_experience_are_labelled_alike():
    method = cl.strategies.naive(registry.MODEL, registry.SGD)
    for bench, label in ((registry.BENCH, "experiences trained on"), (cl.streams.split_online(registry.BENCH, 4), "time")):
        probe = cl.probes.join(cl.evaluate(registry.MODEL, bench.test), cl.probes.weight_norm())
        runs = cl.sweep(method, bench, seeds=2, probe=probe, compile=False, progress=False)
        joined = cl.Runs.join({"a": runs, "b": runs})
        for one in (runs, joined, joined.at(method="a")):
            assert one.plot_timeline().get_xlabel() == label
            assert one.plot_timeline("weight_norm").get_xlabel() == label
        assert runs.plot_timeline("weight_norm", xlabel="tasks").get_xlabel() == "tasks"
    probe = cl.probes.join(cl.evaluate(registry.MODEL, registry.BENCH.test), cl.probes.weight_norm())
    rarely = cl.sweep(method, registry.BENCH, seeds=2, probe=probe, every=2, compile=False, progress=False)
    assert rarely.plot_timeline("weight_norm").get_xlabel() == "time"


def test_streams_in_two_orders_are_said():
    """Entry (i, j) of the matrix is then not of the experience trained on at j; a stream of each seed's own is looked at too."""
    turned = cl.Benchmark(BENCH.train[::-1], BENCH.test)
    listed = lambda stream: cl.Stream(list(stream).__getitem__, len(stream))  # noqa: E731
    for bench in (turned, lambda key: turned, cl.Benchmark(listed(turned.train), listed(BENCH.test))):
        with pytest.warns(UserWarning, match=r"benchmark: .*number 0 has the index 1 in `train`, 0 in `test`") as caught:
            cl.sweep(STRATEGY, bench, seeds=1, **PLAIN)
        assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match="benchmark: its streams") as caught:
        cl.compare({"a": STRATEGY}, turned, seeds=1, **PLAIN)
    assert {warning.filename for warning in caught} == {__file__}
    cl.sweep(STRATEGY, cl.Benchmark(BENCH.train[::-1], BENCH.test[::-1]), seeds=1, **PLAIN)
    cl.sweep(STRATEGY, cl.Benchmark(BENCH.train[:1], BENCH.test), seeds=1, **PLAIN)

"""Runs that are saved, or made by a worker, are taken only for those of a sweep that is made of the same."""

from __future__ import annotations

import contextlib
import functools
import shutil
import sys
import types
import warnings
from concurrent.futures import Future

import numpy as np
import pytest
import torch

import cl_func as cl
from cl_func.sweeps import broadcast

DATA = cl.Dataset(cl.random.uniform(cl.key(0), (60, 6)), torch.arange(60) % 6)
BENCH = cl.streams.split_by_class(DATA, DATA, n_experiences=3)
MODEL = cl.models.mlp(6, hidden=(8,), n_classes=6)
sweep = functools.partial(cl.sweep, seeds=2, compile=False, lanes=1, progress=False)


def naive(lr=0.1, **options):
    return cl.strategies.naive(MODEL, cl.optim.sgd(lr), batch_size=10, **options)


def stop(time, *_):
    if time == 1:
        raise KeyboardInterrupt


def test_a_folder_that_has_lost_its_plan_is_refused(tmp_path):
    runs = sweep(naive(), BENCH, resume=tmp_path)
    (tmp_path / "sweep.json").unlink()
    with pytest.raises(ValueError, match=r"has lost its sweep\.json"):
        sweep(naive(0.001), BENCH, resume=tmp_path)
    with pytest.warns(UserWarning, match=r"has lost its sweep\.json"):
        again = sweep(naive(), BENCH, resume=tmp_path, on_change="warn")
    assert cl.tree.difference(again.history, runs.history) is None


def test_runs_of_another_sweep_in_the_folder_are_refused(tmp_path):
    """As after copying the files of two sweeps into one folder."""
    sweep(naive(), BENCH, seeds=[0], resume=tmp_path / "a")
    sweep(naive(0.001), BENCH, seeds=[1], resume=tmp_path / "b")
    (own,) = (tmp_path / "b").glob("chunk-*")
    shutil.copy(own, tmp_path / "a")
    with pytest.raises(ValueError, match=f"{own.name}: runs of another sweep than the others in"):
        sweep(naive(), BENCH, resume=tmp_path / "a")
    with pytest.warns(UserWarning, match="They are used all the same"):
        sweep(naive(), BENCH, resume=tmp_path / "a", on_change="warn")


def test_runs_that_were_begun_by_another_sweep_are_refused(tmp_path):
    for name, lr in (("a", 0.1), ("b", 0.001)):
        with contextlib.suppress(KeyboardInterrupt):
            sweep(naive(lr), BENCH, tap=stop, checkpoint=cl.Checkpoint(tmp_path / name, every=1))
    (own,) = (tmp_path / "b").glob("partial-*")
    shutil.copytree(own, tmp_path / "a" / own.name)
    with pytest.raises(ValueError, match="runs of another sweep than the others in"):
        sweep(naive(), BENCH, checkpoint=cl.Checkpoint(tmp_path / "a", every=1))


def test_runs_of_changed_code_do_not_become_those_of_the_old(tmp_path):
    """What was made by on_change="warn" is not made of what the folder began with."""
    sweep(naive(), BENCH, seeds=[0], resume=tmp_path)
    with pytest.warns(UserWarning, match="holds another sweep"):
        sweep(naive(0.001), BENCH, seeds=[1], resume=tmp_path, on_change="warn")
    with pytest.raises(ValueError, match="runs of another sweep than the others in"):
        sweep(naive(), BENCH, seeds=2, resume=tmp_path)


def test_data_that_a_benchmark_function_reads_are_compared(tmp_path):
    def save(brightness):
        np.savez(tmp_path / "data.npz", x=DATA.x.numpy() * np.float32(brightness), y=DATA.y.numpy())

    def make(key):
        file = np.load(tmp_path / "data.npz")
        data = cl.data.from_arrays(file["x"], file["y"])
        return cl.streams.split_by_class(data, data, n_experiences=3, key=key)

    save(1.0)
    sweep(naive(), make, resume=tmp_path / "runs")
    assert sweep(naive(), make, seeds=[3, 1], resume=tmp_path / "runs").finished.all()
    save(0.5)
    with pytest.raises(ValueError, match=r"made\.train.*data\.x: other values"):
        sweep(naive(), make, resume=tmp_path / "runs")


@pytest.fixture
def constants(monkeypatch):
    """A module of the user's with a constant, as one that a worker imports anew."""
    module = types.ModuleType("own_constants")
    module.SCALE, module.CACHE = 1.0, None
    monkeypatch.setitem(sys.modules, "own_constants", module)
    monkeypatch.setattr(broadcast, "_HELD", broadcast._Held())
    return module


class Elsewhere:
    """An executor whose worker has other values of a module's variables."""

    def __init__(self, module, dtype=torch.float32, **values):
        self.module, self.dtype, self.values = module, dtype, values

    def submit(self, function, /, *arguments):
        here, dtype, future = dict(vars(self.module)), torch.get_default_dtype(), Future()
        vars(self.module).update(self.values)
        torch.set_default_dtype(self.dtype)
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        finally:
            vars(self.module).update(here)
            torch.set_default_dtype(dtype)
        return future


def scaled(module):
    inner = cl.losses.cross_entropy(MODEL)

    def loss(params, state, exp):
        import own_constants

        value, out = inner(params, state, exp)
        if isinstance(own_constants.CACHE, str):
            raise TypeError
        return value * own_constants.SCALE, out

    return naive(loss=loss)


def test_a_worker_with_other_constants_is_refused(constants):
    """A worker imports modules anew: without their changed constants it would run another sweep than this process asked for."""
    strategy = scaled(constants)
    with pytest.raises(RuntimeError, match="2 runs failed") as caught:
        sweep(strategy, BENCH, executor=Elsewhere(constants, SCALE=0.5))
    assert "on its worker the sweep is made of something else" in str(caught.value.__cause__)
    assert "SCALE: 1.0 -> 0.5" in str(caught.value.__cause__)
    here = sweep(strategy, BENCH)
    assert cl.tree.difference(sweep(strategy, BENCH, executor=Elsewhere(constants)).history, here.history) is None
    assert sweep(strategy, BENCH, executor=Elsewhere(constants, SCALE=0.5), on_change="warn").finished.all()


def test_a_worker_has_the_default_dtype_of_the_process(constants):
    strategy = scaled(constants)
    executor = Elsewhere(constants, torch.float64)
    assert cl.tree.difference(sweep(strategy, BENCH, executor=executor).history, sweep(strategy, BENCH).history) is None


def test_a_damaged_file_is_told_until_its_runs_are_made_again(tmp_path):
    sweep(naive(), BENCH, resume=tmp_path)
    next(tmp_path.glob("chunk-*")).write_bytes(b"")
    with pytest.warns(UserWarning, match="passed over a damaged file; its runs are run again"):
        sweep(naive(), BENCH, resume=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sweep(naive(), BENCH, resume=tmp_path).finished.all()


@pytest.mark.parametrize("here", [None, {}, {"a": 1}, torch.ones(2)])
def test_a_cache_that_a_worker_fills_by_itself_is_not_compared(constants, here):
    constants.CACHE = here
    assert sweep(scaled(constants), BENCH, executor=Elsewhere(constants, CACHE=torch.zeros(3))).finished.all()


def test_last_digits_that_a_worker_draws_are_not_compared(constants):
    """Another processor rounds the initial weights otherwise."""
    strategy = scaled(constants)

    def init(key):
        agent = strategy.init(key)
        scale = 1.0000001 if isinstance(constants.PLACE, dict) else 1.0
        return agent.replace(model=cl.tree.replace(agent.model, params=cl.tree.map(lambda p: p * scale, agent.model.params)))

    constants.PLACE = None
    moved = cl.Strategy(init, strategy.update, strategy.model)
    assert sweep(moved, BENCH, executor=Elsewhere(constants, PLACE={})).finished.all()

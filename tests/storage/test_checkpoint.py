"""Checkpoints: a run that stops anywhere resumes with the same bits."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

import pytest
import torch

import cl_func as cl
from benchmarks.soak import kills
from cl_func.storage import files, run_checkpointer
from cl_func.sweeps import interrupted

BENCH = cl.testing.small_benchmark(n_experiences=4)
MODEL = cl.models.mlp(6, (8,), 4)
STRATEGY = cl.strategies.er_lwf(MODEL, cl.optim.adam(1e-2), capacity=6, replay_size=4, batch_size=3, epochs=2)
PROBE = cl.evaluate(MODEL, BENCH.test)
START = STRATEGY.init(cl.key(0))


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.fixture
def killing(monkeypatch):
    """After that many writes, the next one dies halfway."""

    def after(n):
        left, write = iter(range(n)), files.write

        def dying(*args):
            if next(left, None) is None:
                raise Killed
            write(*args)

        monkeypatch.setattr(files, "write", dying)

    yield after
    monkeypatch.undo()


def check(folder, killing, monkeypatch, at, update=STRATEGY.update, start=START, probe=PROBE, train=BENCH.train, **options):
    """Kill the run at its `at`-th checkpoint, resume it, and compare with the uninterrupted run."""
    steps = {"every": options.pop("checkpoint_every")} if "checkpoint_every" in options else {"steps": 1}
    expected = cl.scan(update, start, train, probe, **options)
    keep = cl.Checkpoint(folder, **steps)
    killing(at)
    with pytest.raises(Killed):
        cl.scan(update, start, train, probe, checkpoint=keep, **options)
    monkeypatch.undo()
    for _ in range(2):  # the second time it is finished already
        resumed = cl.scan(update, start, train, probe, checkpoint=keep, **options)
        assert cl.tree.difference(resumed, expected) is None


@pytest.mark.parametrize("at", [0, 1, 2, 3, 5, 8, 13, 14, 15, 30])
def test_resumed_equals_uninterrupted(tmp_path, killing, monkeypatch, at):
    check(tmp_path, killing, monkeypatch, at)


@pytest.mark.parametrize(
    ("at", "every", "checkpoint_every"),
    [(2, 1, 1), (3, 2, 1), (1, 3, 2), (3, 3, 1), (4, 5, 1)],
)
def test_any_times_of_the_history(tmp_path, killing, monkeypatch, at, every, checkpoint_every):
    check(tmp_path, killing, monkeypatch, at, every=every, checkpoint_every=checkpoint_every)


def test_without_a_probe_and_with_a_generator(tmp_path, killing, monkeypatch):
    keep = cl.Checkpoint(tmp_path, steps=2)
    expected = cl.fold(STRATEGY.update, START, BENCH.train)
    killing(7)
    with pytest.raises(Killed):
        cl.fold(STRATEGY.update, START, iter(BENCH.train), checkpoint=keep)
    monkeypatch.undo()
    assert cl.tree.equal(cl.fold(STRATEGY.update, START, iter(BENCH.train), checkpoint=keep), expected)


def test_lanes_and_nested_loops(tmp_path, killing, monkeypatch):
    update = cl.vmap(
        cl.compose(
            cl.repeat(STRATEGY.update, 2),
            cl.at("replay.seen", cl.compose(lambda seen, exp: seen + 1, lambda seen, exp: seen - 1)),
        )
    )
    start = cl.tree.stack([STRATEGY.init(cl.key(i)) for i in range(3)])
    check(tmp_path, killing, monkeypatch, 23, update, start, cl.vmap(PROBE), BENCH.train[:2])


@pytest.mark.parametrize("at", [9])
def test_compiled_and_donated(tmp_path, killing, monkeypatch, at):
    check(tmp_path, killing, monkeypatch, at, cl.compile(STRATEGY.update), donate=True)


def test_layout_survives(tmp_path, killing, monkeypatch):
    """A transposed leaf comes back transposed: another layout is another order of sums."""
    start = {"w": torch.arange(6.0).reshape(2, 3).T, "wide": torch.ones(1).expand(3)}
    strides = []

    def update(state, exp):
        strides.append(state["w"].stride())
        return {"w": state["w"] + 1, "wide": state["wide"] * 1.5}

    check(tmp_path, killing, monkeypatch, 2, update, start, None)
    assert set(strides) == {(1, 3)}


def test_keeps_the_newest(tmp_path):
    cl.fold(STRATEGY.update, START, BENCH.train, checkpoint=cl.Checkpoint(tmp_path, every=1, keep=3))
    assert sorted(p.name for p in tmp_path.glob("checkpoint*")) == [f"checkpoint-{i:08d}.safetensors" for i in (2, 3, 4)]


def test_by_default_saving_takes_one_percent(tmp_path, monkeypatch):
    """With a clock of our own: a save that takes 1 s comes every 100 s."""
    now = [0.0]
    monkeypatch.setattr(run_checkpointer.time, "perf_counter", lambda: now[0])
    write, saves = files.write, []

    def slow(*args):
        write(*args)
        saves.append(now[0])
        now[0] += 1.0

    monkeypatch.setattr(files, "write", slow)

    def update(state, exp):
        now[0] += 0.5
        return state

    stream = [BENCH.train[0]] * 500
    cl.fold(update, START, stream, checkpoint=cl.Checkpoint(tmp_path))
    assert saves[0] == 1.5  # the first second is free
    assert saves[1] - saves[0] == pytest.approx(101, abs=1)
    assert len(saves) == 4  # the last one when the run ended


def test_damaged_checkpoints_are_passed_over_by_name(tmp_path, killing, monkeypatch):
    expected = cl.fold(STRATEGY.update, START, BENCH.train)
    keep = cl.Checkpoint(tmp_path, steps=1, keep=3)
    killing(12)
    with pytest.raises(Killed):
        cl.fold(STRATEGY.update, START, BENCH.train, checkpoint=keep)
    monkeypatch.undo()
    newest = sorted(tmp_path.glob("checkpoint-*"))[-1]
    newest.write_bytes(newest.read_bytes()[:-7])
    with pytest.warns(UserWarning, match=f"passed over a damaged file.*{newest.name}"):
        assert cl.tree.equal(cl.fold(STRATEGY.update, START, BENCH.train, checkpoint=keep), expected)


def test_all_damaged_starts_anew(tmp_path):
    (tmp_path / "checkpoint-00000004.safetensors").write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="checkpoint-00000004"):
        end = cl.fold(STRATEGY.update, START, BENCH.train, checkpoint=cl.Checkpoint(tmp_path, every=1))
    assert cl.tree.equal(end, cl.fold(STRATEGY.update, START, BENCH.train))
    assert (tmp_path / "checkpoint-00000009.safetensors").exists()  # never a number twice


@pytest.mark.parametrize(
    ("update", "start", "every"),
    [
        (STRATEGY.update, STRATEGY.init(cl.key(1)), 1),
        (STRATEGY.update, cl.tree.set(START, {"opt.lr": 0.5}), 1),
        (cl.repeat(STRATEGY.update, 2), START, 1),
        (STRATEGY.update, START, 2),
    ],
)
def test_the_folder_of_another_run_is_refused(tmp_path, update, start, every):
    keep = cl.Checkpoint(tmp_path, every=1)
    cl.scan(STRATEGY.update, START, BENCH.train, PROBE, checkpoint=keep)
    with pytest.raises(ValueError, match="holds another run"):
        cl.scan(update, start, BENCH.train, PROBE, every=every, checkpoint=keep)


def test_two_processes_on_one_folder(tmp_path):
    hold = f"with locked({str(tmp_path)!r}): print('held', flush=True); sys.stdin.read()"
    code = f"import sys; from cl_func.storage.checkpoint import locked\n{hold}"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RuntimeError, match="in use by another run"):
            cl.fold(STRATEGY.update, START, BENCH.train, checkpoint=cl.Checkpoint(tmp_path))
        with pytest.raises(RuntimeError, match="in use by another run"):
            cl.sweep(STRATEGY, BENCH, seeds=1, checkpoint=cl.Checkpoint(tmp_path), progress=False)
        other.kill()
    cl.fold(STRATEGY.update, START, BENCH.train, checkpoint=cl.Checkpoint(tmp_path))  # a dead process holds no lock


def test_left_over_temporary_files_go(tmp_path):
    (tmp_path / ".checkpoint-00000000.safetensors.01234567.tmp").touch()
    cl.fold(STRATEGY.update, START, BENCH.train, checkpoint=cl.Checkpoint(tmp_path))
    assert not list(tmp_path.glob(".*.tmp"))


def test_bad_arguments(tmp_path):
    for bad in ({"every": 0}, {"steps": -1}, {"keep": 0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            cl.Checkpoint(tmp_path, **bad)
    with pytest.raises(TypeError, match="folder"):
        cl.Checkpoint(3)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; give a folder"):
        cl.fold(STRATEGY.update, START, BENCH.train, checkpoint=cl.Checkpoint(tmp_path / "file"))
    with pytest.raises(TypeError, match=r"checkpoint: expected a cl.Checkpoint"):
        cl.fold(STRATEGY.update, START, BENCH.train, checkpoint=str(tmp_path))
    with pytest.raises(ValueError, match="give one of them"):
        cl.sweep(STRATEGY, BENCH, seeds=1, checkpoint=cl.Checkpoint(tmp_path), resume=tmp_path)


# Numerical faults


@pytest.mark.parametrize("lanes", [False, True])
def test_the_state_before_a_fault_is_saved(tmp_path, lanes):
    start, update = START, STRATEGY.update
    expected = start = cl.tree.set(start, {"opt.lr": 1e30})
    if lanes:
        expected = start = cl.tree.stack([START, start])
        update = cl.vmap(update)
    with pytest.raises(FloatingPointError, match=rf"experience 0, optimiser step \d.*saved in {tmp_path / 'fault'}"):
        cl.fold(cl.check_finite(update, save=tmp_path / "fault"), start, BENCH.train)
    before = cl.load(tmp_path / "fault", like=expected)
    assert all(bool(leaf.isfinite().all()) for leaf in cl.tree.leaves(before))
    # The saved state is the one just before the fault, so the next minibatch shows it again.
    with pytest.raises(FloatingPointError):
        cl.fold(cl.check_finite(update), before, BENCH.train)


# Sweeps


ASKED = {"seeds": 4, "hparams": cl.grid({"opt.lr": [1e-3, 1e-2]}), "compile": False, "progress": False}


@pytest.mark.parametrize(("first", "then"), [(2, 2), (4, 2), (2, 4), (3, 8), (1, 1)])
def test_sweeps_with_any_lanes(tmp_path, killing, monkeypatch, first, then):
    """Runs that are interrupted in the middle of an experience resume in chunks of another size."""
    expected = cl.sweep(STRATEGY, BENCH, lanes=then, **ASKED)
    keep = cl.Checkpoint(tmp_path, steps=2)
    killing(25)
    with pytest.raises(Killed):
        cl.sweep(STRATEGY, BENCH, lanes=first, checkpoint=keep, **ASKED)
    monkeypatch.undo()
    left = interrupted.interrupted_runs(tmp_path)
    assert len(left) >= first
    assert any(partial.saved.progress.calls for partial in left.values())
    again = cl.sweep(STRATEGY, BENCH, lanes=then, checkpoint=keep, **ASKED)
    assert cl.tree.difference(again.history, expected.history) is None
    assert not list(tmp_path.glob("partial-*"))


def test_interrupted_sweep_with_a_class_order_per_seed(tmp_path, killing, monkeypatch):
    data = BENCH.train[0].source

    def bench(key):
        return cl.streams.split_by_class(data, data, n_experiences=2, key=key)

    expected = cl.sweep(STRATEGY, bench, lanes=3, **ASKED)  # 8 runs: the last chunk is filled up
    killing(9)
    with pytest.raises(Killed):
        cl.sweep(STRATEGY, bench, lanes=3, checkpoint=cl.Checkpoint(tmp_path, steps=3), **ASKED)
    monkeypatch.undo()
    again = cl.sweep(STRATEGY, bench, lanes=3, checkpoint=cl.Checkpoint(tmp_path, steps=3), **ASKED)
    assert cl.tree.difference(again.history, expected.history) is None


def test_damaged_chunks_run_again(tmp_path):
    expected = cl.sweep(STRATEGY, BENCH, lanes=4, resume=tmp_path, **ASKED)
    path = sorted(tmp_path.glob("chunk-*"))[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=f"its runs are run again.*{path.name}"):
        again = cl.sweep(STRATEGY, BENCH, lanes=4, resume=tmp_path, **ASKED)
    assert cl.tree.equal(again.history, expected.history)


# The short soak; benchmarks/soak/kills.py has the long one


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods() or not hasattr(os, "fork"), reason="needs fork")
def test_five_kills():
    """In a process of its own: this one may hold threads, which do not survive a fork."""
    counts = "print(kills.soak_scan(5, longest=0.2).kills, kills.soak_sweep(1, longest=1.0).kills)"
    code = f"import torch; torch.set_num_threads(1); from benchmarks.soak import kills; {counts}"
    root = kills.__file__.rsplit("/", 3)[0]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    scans, sweeps = map(int, done.stdout.split())
    assert scans >= 5
    assert sweeps >= 1

"""The tap of a sweep: a call for each run and entry, with the labels of the run, wherever and however often it runs."""

from __future__ import annotations

import concurrent.futures
import csv
import json
import multiprocessing
from collections import Counter

import pytest
import registry
import torch

import cl_func as cl
from cl_func import losses
from cl_func.core.tapping import Saved, TapError

BENCH, MODEL, OPT = registry.BENCH, registry.MODEL, cl.optim.sgd(0.1)
GRID = cl.grid({"opt.lr": [0.1, 0.2]})
PLAIN = {"compile": False, "progress": False}


@cl.state
class Traced(cl.Agent):
    losses: cl.trace.Trace


def init(key):
    key, init_key = cl.random.split(key)
    net = MODEL.init(init_key)
    return Traced(key=key, model=net, opt=OPT.init(net.params), losses=cl.trace.init(3))


LOSS = cl.trace.loss(losses.cross_entropy(MODEL), "losses")
STRATEGY = cl.Strategy(init, cl.minibatches(cl.train_step(LOSS, OPT), batch_size=5), MODEL)
PROBE = cl.trace.probe("losses")


class Kept:
    """A tap that keeps everything, and what it is told."""

    def __init__(self):
        self.entries, self.resumed, self.over = {}, [], []

    def __call__(self, time, entry, labels):
        calls = self.entries.setdefault(json.dumps(labels), [])
        assert time == len(calls)  # in order, none twice
        calls.append(entry)

    def resume(self, time, labels):
        self.resumed.append((time, labels))
        self.entries.pop(json.dumps(labels), None)

    def finish(self, labels):
        self.over.append(json.dumps(labels))


def check(kept, runs):
    """What a tap was given is the histories."""
    assert len(kept.entries) == runs.finished.numel()
    assert sorted(kept.over) == sorted(kept.entries)
    for i, lr in enumerate(runs.axes["opt.lr"]):
        for j, seed in enumerate(runs.axes["seed"]):
            entries = kept.entries[json.dumps({"opt.lr": lr, "seed": seed})]
            for name in ("accuracy", "loss", "class_accuracy"):
                assert torch.equal(torch.stack([entry[name] for entry in entries]), runs[name][i, j])
            steps = [entry["losses"] for entry in entries]
            assert torch.cat([one.values for one in steps]).tolist() == runs.curve("losses")[i, j].tolist()
            assert torch.cat([one.numbers for one in steps]).tolist() == list(range(6))


def sweep(tap, **more):
    return cl.sweep(STRATEGY, BENCH, **{"seeds": 3, "hparams": GRID, "probe": PROBE, "tap": tap, **PLAIN, **more})


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("compile", [False, True])
def test_each_run_is_given_with_its_labels(lanes, compile):
    kept = Kept()
    check(kept, sweep(kept, lanes=lanes, compile=compile))
    assert kept.resumed == []


def test_runs_on_an_executor_are_given_here():
    kept = Kept()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        check(kept, sweep(kept, lanes=2, executor=pool))


def test_a_process_pool_needs_no_tap_that_can_be_pickled():
    kept = Kept()
    kept.lock = __import__("threading").Lock()
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        kept.runs = sweep(kept, lanes=3, executor=pool, seeds=2)
    check(kept, kept.runs)


def test_curves_are_the_same_whatever_the_lanes():
    alone, together = (sweep(None, lanes=lanes).curve("losses") for lanes in (1, 6))
    assert alone.shape == (2, 3, 6)
    assert torch.allclose(alone, together, rtol=1e-4, atol=1e-5)
    assert not torch.equal(alone[0], alone[1])


def test_a_trace_is_measured_beside_the_evaluation_of_each_run():
    def benchmark(key):
        data = BENCH.train[0].source
        return cl.streams.split_by_class(data, data, n_experiences=2, key=key)

    found = [cl.sweep(STRATEGY, benchmark, seeds=2, probe=probe, lanes=2, **PLAIN) for probe in (PROBE, None)]
    assert torch.equal(found[0]["accuracy"], found[1]["accuracy"])
    assert found[0].curve("losses").shape[:2] == (2, found[0]["losses.count"][0, -1])
    alone = cl.sweep(cl.Strategy(init, STRATEGY.update), BENCH, seeds=1, probe=PROBE, **PLAIN)
    assert list(alone.history) == ["losses.values", "losses.count"]


def test_another_test_stream_is_another_sweep(tmp_path):
    """Since a probe of traces alone is measured beside the evaluation on it."""
    asked = {"seeds": 1, "probe": PROBE, "resume": tmp_path, **PLAIN}
    cl.sweep(STRATEGY, BENCH, **asked)
    with pytest.raises(ValueError, match="test"):
        cl.sweep(STRATEGY, cl.Benchmark(BENCH.train, BENCH.test[:1]), **asked)


class Crash:
    """A tap that ends the sweep at some call."""

    def __init__(self, at):
        self.left = at

    def __call__(self, time, entry, labels):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("keep", ["resume", "checkpoint"])
@pytest.mark.parametrize("make", [cl.taps.csv, cl.taps.json_lines])
def test_a_resumed_sweep_writes_no_line_twice(tmp_path, lanes, keep, make):
    folder, path = tmp_path / "folder", tmp_path / "log"
    where = {"resume": folder} if keep == "resume" else {"checkpoint": cl.Checkpoint(folder, every=1)}
    with pytest.warns(UserWarning, match="interrupted"):
        sweep(cl.taps.several(make(path), Crash(7)), lanes=lanes, **where)
    before = Counter(path.read_text().splitlines())
    assert len(before) > 5
    with open(path, "a") as file:
        file.write("0.2,")  # what a crash leaves
    sweep(make(path), lanes=lanes, **where)
    sweep(make(tmp_path / "whole"), lanes=lanes)
    assert Counter(path.read_text().splitlines()) == Counter((tmp_path / "whole").read_text().splitlines())
    finished = path.read_text()
    sweep(make(path), lanes=lanes, **where)  # nothing is left to run
    assert path.read_text() == finished


def rows(path):
    """The lines of a log as dicts, sorted; their columns may be in any order."""
    with open(path, newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file)) if path.suffix == ".csv" else [json.loads(line) for line in file]
    return sorted(json.dumps(row, sort_keys=True) for row in found)


@pytest.mark.parametrize("make", [cl.taps.csv, cl.taps.json_lines])
def test_names_with_ends_of_lines_in_them_are_written_once(tmp_path, make):
    names = ["DER++\n(ours)", "x\u2028y", "x\x85y", "x\r\ny", "x\ry", 'a "b", c', "é"]
    asked = {"strategies": dict.fromkeys(names, STRATEGY), "benchmark": BENCH, "seeds": 1, "probe": PROBE, **PLAIN}
    logs = {name: tmp_path / f"{name}.{make.__name__}" for name in ("whole", "stopped")}
    cl.compare(**asked, tap=make(logs["whole"]))
    for at in (4, 1, 4):
        with pytest.warns(UserWarning, match="interrupted"):
            cl.compare(**asked, tap=cl.taps.several(make(logs["stopped"]), Crash(at)), resume=tmp_path / "kept")
    cl.compare(**asked, tap=make(logs["stopped"]), resume=tmp_path / "kept")
    assert rows(logs["stopped"]) == rows(logs["whole"])
    assert {json.loads(row)["method"] for row in rows(logs["whole"])} == set(names)


def test_json_lines_know_a_run_by_its_labels_in_any_order(tmp_path):
    axes, path = {"opt.lr": [0.1, 0.2], "model.params.0.bias": [torch.zeros(8), torch.ones(8)]}, tmp_path / "log.jsonl"
    asked = {"seeds": 1, "lanes": 2, "resume": tmp_path / "kept"}
    with pytest.warns(UserWarning, match="interrupted"):
        sweep(cl.taps.several(cl.taps.json_lines(path), Crash(6)), hparams=cl.grid(axes), **asked)
    sweep(cl.taps.json_lines(path), hparams=cl.grid(dict(reversed(axes.items()))), **asked)
    sweep(cl.taps.json_lines(tmp_path / "whole.jsonl"), hparams=cl.grid(axes), seeds=1, lanes=2)
    assert rows(path) == rows(tmp_path / "whole.jsonl")


def test_csv_refuses_labels_in_another_order(tmp_path):
    """Of (1, 2) and (2, 1) the rows begin alike."""
    paths, log = ["model.params.0.bias", "model.params.2.bias"], tmp_path / "log.csv"
    tap, entry, saved = cl.taps.csv(log), {"accuracy": torch.zeros(())}, Saved(tmp_path)
    tap.reopen(saved, [dict(zip(paths, (1, 2), strict=True))])
    tap(0, entry, dict(zip(paths, (1, 2), strict=True)))
    before, swapped = log.read_bytes(), dict(zip(paths[::-1], (1, 2), strict=True))
    tap = cl.taps.csv(log)
    tap.reopen(saved, [swapped])
    with pytest.raises(ValueError, match=r"has other columns than model\.params\.2\.bias,model\.params\.0\.bias,time"):
        tap(0, entry, swapped)
    assert log.read_bytes() == before


@pytest.mark.parametrize("make", [cl.taps.csv, cl.taps.json_lines])
def test_the_log_of_another_sweep_is_left_alone(tmp_path, make):
    path = tmp_path / "log"
    sweep(make(path), resume=tmp_path / "a", seeds=2)
    before = path.read_bytes()
    with pytest.raises(TapError, match=r"tap: .*log holds another run than the one kept in .*b; move it away or give this run a"):
        sweep(make(path), resume=tmp_path / "b", seeds=3)
    with pytest.warns(UserWarning, match="holds another run"):
        sweep(cl.taps.warn(make(path)), resume=tmp_path / "b", seeds=3)
    assert path.read_bytes() == before
    sweep(make(path), resume=tmp_path / "a", seeds=3)
    assert len(rows(path)) == 2 * 3 * 2 if make is cl.taps.json_lines else path.read_text().count("\n") == 1 + 2 * 3 * 2


def test_on_an_executor_an_interrupted_run_is_given_from_its_beginning(tmp_path):
    where = {"checkpoint": cl.Checkpoint(tmp_path / "folder", every=1)}
    with pytest.warns(UserWarning, match="interrupted"):
        sweep(Crash(7), lanes=2, **where)
    kept = Kept()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        runs = sweep(kept, lanes=2, executor=pool, **where)
    assert len(kept.entries) == 4  # those of the first chunk are in the folder
    assert kept.resumed == [(0, json.loads(labels)) for labels in kept.entries]
    assert all(len(entries) == 2 for entries in kept.entries.values())
    assert bool(runs.finished.all())


def test_csv_has_the_labels_in_front(tmp_path):
    runs = sweep(cl.taps.csv(tmp_path / "log.csv"), lanes=1, resume=tmp_path / "folder")
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert list(rows[0])[:3] == ["opt.lr", "seed", "time"]
    for row in rows:
        point = runs.axes["opt.lr"].index(float(row["opt.lr"])), int(row["seed"]), int(row["time"])
        assert float(row["accuracy[1]"]) == runs["accuracy"][*point, 1].item()
        assert json.loads(row["losses.numbers"]) == [3 * point[-1] + i for i in range(3)]
    with pytest.raises(RuntimeError, match="holds another run"):
        sweep(cl.taps.csv(tmp_path / "log.csv"))
    with pytest.raises(RuntimeError, match="has other columns than seed,time,"):
        sweep(cl.taps.csv(tmp_path / "log.csv"), hparams=None, resume=tmp_path / "folder")


def test_labels_that_are_tensors_are_lists(tmp_path):
    biases = cl.grid({"model.params.2.bias": [torch.zeros(4), torch.ones(4)]})
    for make in (cl.taps.csv, cl.taps.json_lines):
        path = tmp_path / make.__name__
        sweep(make(path), hparams=biases, seeds=1)
    labels = [json.loads(line)["model.params.2.bias"] for line in path.read_text().splitlines()]
    assert sorted(labels) == [[0.0] * 4] * 2 + [[1.0] * 4] * 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_a_folder_for_each_run(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runs = sweep(cl.taps.tensorboard(tmp_path), lanes=2)
    folder = tmp_path / "opt.lr=0.2, seed=1"
    events = EventAccumulator(str(folder)).Reload()
    assert [event.value for event in events.Scalars("accuracy/1")] == pytest.approx(runs["accuracy"][1, 1, :, 1].tolist())
    steps = [(event.step, event.value) for event in EventAccumulator(str(folder / "steps")).Reload().Scalars("losses")]
    assert steps == list(enumerate(runs.curve("losses")[1, 1].tolist()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_tells_apart_what_is_not_the_name_of_a_folder(tmp_path):
    tap, long = cl.taps.tensorboard(tmp_path), "é" * 200
    names = ["w_o replay", "w/o replay", "w:o replay", long + "1", long + "2", "x\ud800", "x?"]
    for i, method in enumerate(names):
        labels = {"method": method, "seed": 0}
        tap(0, {"accuracy": torch.tensor(float(i))}, labels)
        tap.finish(labels)
    folders = [path.name for path in tmp_path.iterdir()]
    assert len(folders) == len(names)
    assert {"method=w_o replay, seed=0", "method=w:o replay, seed=0", "method=x?, seed=0"} <= set(folders)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_knows_a_run_by_its_labels_in_any_order(tmp_path):
    tap = cl.taps.tensorboard(tmp_path)
    tap(0, {"accuracy": torch.zeros(())}, {"a": 1, "b": 2, "seed": 0})
    tap.finish({"a": 1, "b": 2, "seed": 0})
    tap.resume(0, {"b": 2, "a": 1, "seed": 0})
    tap.finish({"b": 2, "a": 1, "seed": 0})
    assert [path.name for path in tmp_path.iterdir()] == ["a=1, b=2, seed=0"]


@pytest.mark.parametrize("remote", [False, True])
def test_a_tap_that_raises_names_the_run(remote):
    def broken(time, entry, labels):
        if labels["seed"] == 1:
            raise OSError("no room")

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        executor = pool if remote else None
        with pytest.raises(RuntimeError) as error:
            sweep(broken, hparams=None, executor=executor)
        found = error.value.__cause__ if remote else error.value
        assert "raised OSError at entry 0 of the history of the run with {'seed': 1}: no room" in str(found)
        with pytest.warns(UserWarning, match="no room; the run goes on"):
            assert bool(sweep(cl.taps.warn(broken), hparams=None, executor=executor).finished.all())

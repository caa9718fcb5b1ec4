"""Taps: the history as it grows, in files that a crash cannot spoil."""

from __future__ import annotations

import csv
import json
import pickle

import pytest

import cl_func as cl

BENCH = cl.testing.small_benchmark(n_experiences=4)
MODEL = cl.models.mlp(6, (8,), 4)
STRATEGY = cl.strategies.naive(MODEL, cl.optim.sgd(0.1))
PROBE = cl.evaluate(MODEL, BENCH.test)
START = STRATEGY.init(cl.key(0))


def run(tap, checkpoint=None, train=BENCH.train):
    return cl.scan(STRATEGY.update, START, train, PROBE, tap=tap, checkpoint=checkpoint)


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_csv_holds_the_history(tmp_path):
    _, history = run(cl.taps.csv(tmp_path / "logs" / "run.csv"))
    rows = read_csv(tmp_path / "logs" / "run.csv")
    assert [row["time"] for row in rows] == ["0", "1", "2", "3"]
    assert [float(row["accuracy[2]"]) for row in rows] == history["accuracy"][:, 2].tolist()
    assert [float(row["loss[0]"]) for row in rows] == history["loss"][:, 0].tolist()


def test_json_lines_hold_the_history(tmp_path):
    _, history = run(cl.taps.json_lines(tmp_path / "run.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [row["time"] for row in rows] == [0, 1, 2, 3]
    assert [row["accuracy"] for row in rows] == history["accuracy"].tolist()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_holds_the_history(tmp_path):
    _, history = run(cl.taps.tensorboard(tmp_path))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.value for event in events.Scalars("accuracy/1")] == pytest.approx(history["accuracy"][:, 1].tolist())


@pytest.mark.parametrize("make", [cl.taps.csv, cl.taps.json_lines])
def test_half_a_line_and_lines_after_the_checkpoint_go(tmp_path, make):
    """Three experiences, then a crash in the middle of a line; the checkpoint is one entry behind the log."""
    keep, path = cl.Checkpoint(tmp_path / "keep", every=2), tmp_path / "log"
    expected = tmp_path / "expected"
    run(make(expected))

    def crash(time, entry):
        if time == 3:
            path.write_text(path.read_text() + expected.read_text().splitlines()[-1][:5])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(cl.taps.several(make(path), crash), keep)
    run(make(path), keep)
    assert path.read_text() == expected.read_text()


def test_the_log_of_another_run_is_not_touched(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("time,x\n0,1\n")
    with pytest.raises(RuntimeError, match=r"holds another run.*cl.taps.warn") as error:
        run(cl.taps.csv(path))
    assert isinstance(error.value.__cause__, ValueError)
    assert path.read_text() == "time,x\n0,1\n"


def test_a_log_that_lacks_lines_is_not_continued(tmp_path):
    keep, path = cl.Checkpoint(tmp_path / "keep", every=1), tmp_path / "log.csv"

    def stop(time, entry):
        if time == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(cl.taps.several(cl.taps.csv(path), stop), keep)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(ValueError, match=r"does not hold the entries 0\.\.1"):
        run(cl.taps.csv(path), keep)


@pytest.mark.parametrize("make", [cl.taps.csv, cl.taps.json_lines])
def test_a_tap_comes_back_from_pickle(tmp_path, make):
    run(make(tmp_path / "expected"))
    for name, tap in {
        "alone": make(tmp_path / "alone"),
        "several": cl.taps.several(make(tmp_path / "several"), print),
        "warned": cl.taps.warn(make(tmp_path / "warned")),
    }.items():
        run(pickle.loads(pickle.dumps(tap)))
        assert (tmp_path / name).read_text() == (tmp_path / "expected").read_text()


def test_a_tap_that_raises(tmp_path):
    def broken(time, entry):
        raise OSError("no room")

    with pytest.raises(RuntimeError, match=r"tap: .*broken.* raised OSError at entry 0 of the history: no room"):
        run(broken)
    with pytest.warns(UserWarning, match="no room; the run goes on") as caught:
        _, history = run(cl.taps.warn(broken))
    assert len(caught) == 4
    assert cl.tree.equal(history, run(lambda time, entry: None)[1])


def test_bad_arguments():
    with pytest.raises(TypeError, match="tap: expected a function"):
        cl.scan(STRATEGY.update, START, BENCH.train, PROBE, tap="run.csv")
    with pytest.raises(ValueError, match="tap: there is nothing to receive without a probe"):
        cl.scan(STRATEGY.update, START, BENCH.train, tap=print)
    for make in (cl.taps.csv, cl.taps.json_lines, cl.taps.tensorboard):
        with pytest.raises(TypeError, match="path"):
            make(3)
    for make in (cl.taps.warn, cl.taps.several):
        with pytest.raises(TypeError, match="tap"):
            make("x")

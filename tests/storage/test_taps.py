"""Taps: the history as it grows, in files that a crash cannot spoil."""

from __future__ import annotations

import csv
import json
import pickle
import resource
import shutil

import pytest
import torch

import cl_func as cl
from cl_func.core.tapping import TapError

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


class Stop:
    """A tap that ends the run at some entry."""

    def __init__(self, at):
        self.at = at

    def __call__(self, time, entry):
        if time == self.at:
            raise KeyboardInterrupt


def stopped(tap, keep, at=3, run=run):
    with pytest.raises(KeyboardInterrupt):
        run(cl.taps.several(tap, Stop(at)), checkpoint=keep)


def lines(path):
    return path.read_text().splitlines(keepends=True)


OTHER = r"tap: .*log holds another run than the one kept in .*; move it away or give this run a file of its own"
MAKES = pytest.mark.parametrize("make", [cl.taps.csv, cl.taps.json_lines])


def check_left_alone(path, make, keep, says):
    """A run that is kept somewhere is refused the log of another one, or warned, and the log stays as it is."""
    before = path.read_text()
    with pytest.raises(TapError, match=says):
        run(make(path), keep)
    with pytest.warns(UserWarning, match="log holds another run"):
        run(cl.taps.warn(make(path)), keep)
    assert path.read_text() == before


@MAKES
def test_a_log_belongs_to_one_folder(tmp_path, make):
    path = tmp_path / "log"
    run(make(path), cl.Checkpoint(tmp_path / "a"))
    for again in (False, True):
        if again:
            shutil.rmtree(tmp_path / "a")  # to begin anew
        keep = cl.Checkpoint(tmp_path / ("a" if again else "b"))
        check_left_alone(path, make, keep, OTHER)


@MAKES
def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_again(tmp_path, make):
    keep, path = cl.Checkpoint(tmp_path / "keep", every=9), tmp_path / "log"
    for at in (0, 2):
        stopped(make(path), keep, at)
        assert len(lines(path)) > at
    path.rename(tmp_path / "moved")
    run(make(path))  # without a folder
    with pytest.raises(TapError, match=OTHER):
        run(make(path), keep)
    path.unlink()
    run(make(path), keep)
    run(make(tmp_path / "whole"))
    assert lines(path) == lines(tmp_path / "whole")


@MAKES
@pytest.mark.parametrize("other", [None, "b"])
def test_lines_of_another_run_are_not_continued(tmp_path, make, other):
    path, keep = tmp_path / "log", cl.Checkpoint(tmp_path / "a", every=1)
    stopped(make(path), keep)
    path.rename(tmp_path / "moved")
    start = STRATEGY.init(cl.key(1))
    cl.scan(STRATEGY.update, start, BENCH.train, PROBE, tap=make(path), checkpoint=other and cl.Checkpoint(tmp_path / other))
    check_left_alone(path, make, keep, "the history saved there has no line ")


@MAKES
def test_what_a_log_lacks_is_written_again(tmp_path, make):
    """All of it, the last lines, or one in the middle; of the tap beside it nothing comes twice."""
    run_traced(make(tmp_path / "whole"))
    whole, path, keep, times = lines(tmp_path / "whole"), tmp_path / "log", cl.Checkpoint(tmp_path / "a", every=1), []
    stopped(make(path), keep, run=run_traced)
    path.unlink()
    run_traced(cl.taps.several(make(path), lambda time, entry: times.append(time)), checkpoint=keep)
    assert lines(path) == whole
    assert times == [3]
    for kept in (whole[:0], whole[:1], whole[:3], whole[:2] + whole[3:]):
        path.write_text("".join(kept))
        run_traced(make(path), checkpoint=keep)
        assert lines(path) == whole
    path.unlink()
    run_traced(make(path), checkpoint=keep)  # the run is finished
    assert lines(path) == whole


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_tensorboard_lacks_is_written_again(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    keep, board = cl.Checkpoint(tmp_path / "keep", every=1), tmp_path / "board"
    stopped(cl.taps.tensorboard(board), keep)
    shutil.rmtree(board)
    _, history = run(cl.taps.tensorboard(board), keep)
    events = EventAccumulator(str(board)).Reload().Scalars("accuracy/1")
    assert [(event.step, event.value) for event in events] == list(enumerate(history["accuracy"][:, 1].tolist()))


def test_several_that_were_stopped_serve_another_run(tmp_path):
    times, keep = [], cl.Checkpoint(tmp_path / "keep", every=1)
    tap = cl.taps.several(cl.taps.csv(tmp_path / "log"), lambda time, entry: times.append(time))
    stopped(tap, keep)
    with pytest.raises(KeyboardInterrupt):
        run(cl.taps.several(tap, Stop(3)), keep)
    (tmp_path / "log").unlink()
    times.clear()
    run(tap)
    assert times == [0, 1, 2, 3]


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


@pytest.mark.parametrize("make", [cl.taps.csv, cl.taps.json_lines])
def test_a_full_disk_leaves_no_half_of_a_line(tmp_path, make):
    path, before = tmp_path / "log", resource.getrlimit(resource.RLIMIT_FSIZE)
    run(make(tmp_path / "whole"))

    def limited(time, entry):
        full = path.stat().st_size + 10 if time == 1 else before[0]  # for the next entry
        resource.setrlimit(resource.RLIMIT_FSIZE, (full, before[1]))

    try:
        with pytest.warns(UserWarning, match="File too large; the run goes on") as caught:
            run(cl.taps.several(cl.taps.warn(make(path)), limited))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(caught) == 1
    whole = (tmp_path / "whole").read_text().splitlines()
    del whole[-2]
    assert path.read_text().splitlines() == whole


@pytest.mark.parametrize("make", [cl.taps.csv, cl.taps.json_lines, cl.taps.tensorboard])
def test_two_numbers_of_one_name_are_refused(tmp_path, make):
    """One of them would be lost, or both be under one name."""
    tap = make(tmp_path / "log")
    entry = {"valid": {"loss": torch.tensor(1.0)}, "valid.loss": torch.tensor(2.0)}
    with pytest.raises(ValueError, match=r"probe: \['valid'\]\['loss'\] and \['valid.loss'\] both have the path 'valid.loss'"):
        tap(0, entry)


def test_two_cells_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"probe: 'a' and 'a\[0\]' both have a number 'a\[0\]'; rename one of them"):
        cl.taps.csv(tmp_path / "log")(0, {"a": torch.zeros(2), "a[0]": torch.tensor(1.0)})


@pytest.mark.parametrize("make", [cl.taps.csv, cl.taps.json_lines])
@pytest.mark.parametrize("name", ["time", "seed", "opt.lr"])
def test_a_number_with_the_name_of_a_column_is_refused(tmp_path, make, name):
    """In JSON it would take the place of the time or of the label."""
    tap, labels = make(tmp_path / "file"), {"opt.lr": 0.1, "seed": 0}
    with pytest.raises(ValueError, match=f"probe: it has a number '{name}', which in the file is the name of something else"):
        tap(0, {name: torch.zeros(())}, labels)
    assert not (tmp_path / "file").exists()
    make(tmp_path / "other")(0, {"accuracy": torch.zeros(())}, labels)


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


# -- traces


@cl.state
class Traced(cl.Agent):
    losses: cl.trace.Trace


OPT = cl.optim.sgd(0.1)
TRACED = cl.minibatches(cl.train_step(cl.trace.loss(cl.losses.cross_entropy(MODEL), "losses"), OPT), batch_size=3)


def traced(seed=0, n=3):
    return Traced(**vars(STRATEGY.init(cl.key(seed))), losses=cl.trace.init(n))


def run_traced(tap, start=None, **more):
    return cl.scan(TRACED, start or traced(), BENCH.train, cl.trace.probe("losses", beside=PROBE), tap=tap, **more)


def test_a_tap_gets_what_was_recorded_since_the_entry_before(tmp_path):
    seen = []
    both = cl.taps.several(cl.taps.csv(tmp_path / "run.csv"), cl.taps.json_lines(tmp_path / "run.jsonl"))
    _, history = run_traced(cl.taps.several(both, lambda time, entry: seen.append(entry["losses"])))
    curve = cl.trace.read(history["losses"]).tolist()
    assert [one.numbers.tolist() for one in seen] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert [value for one in seen for value in one.values.tolist()] == curve
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [value for line in lines for value in line["losses.values"]] == curve
    rows = read_csv(tmp_path / "run.csv")
    assert [value for row in rows for value in json.loads(row["losses.values"])] == curve
    assert [json.loads(row["losses.numbers"]) for row in rows] == [one.numbers.tolist() for one in seen]


def test_what_a_ring_has_lost_a_tap_does_not_get():
    seen = []
    run_traced(lambda time, entry: seen.append(entry["losses"].numbers.tolist()), traced(n=2))
    assert seen == [[1, 2], [4, 5], [7, 8], [10, 11]]
    seen.clear()
    run_traced(lambda time, entry: seen.append(entry["losses"].numbers.tolist()), traced(n=8), every=2)
    assert seen == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


def test_lanes_of_a_vmapped_run_are_told_apart(tmp_path):
    lanes = cl.tree.stack([traced(i) for i in range(2)])
    probe = cl.vmap(cl.trace.probe("losses", beside=PROBE))
    tap = cl.taps.json_lines(tmp_path / "run.jsonl")
    _, history = cl.scan(cl.vmap(TRACED), lanes, BENCH.train, probe, tap=tap)
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    for i, curve in enumerate(cl.trace.read(history["losses"]).tolist()):
        assert [value for line in lines for value in line["losses.values"][i]] == curve


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_each_step_once_after_a_resumption(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def crash(time, entry):
        if time == 3:
            raise KeyboardInterrupt

    keep, board = cl.Checkpoint(tmp_path / "keep", every=2), tmp_path / "board"
    with pytest.raises(KeyboardInterrupt):
        run_traced(cl.taps.several(cl.taps.tensorboard(board), crash), checkpoint=keep)
    _, history = run_traced(cl.taps.tensorboard(board), checkpoint=keep)
    steps = EventAccumulator(str(board / "steps")).Reload().Scalars("losses")
    assert [(event.step, event.value) for event in steps] == list(enumerate(cl.trace.read(history["losses"]).tolist()))
    entries = EventAccumulator(str(board)).Reload().Scalars("accuracy/1")
    assert [(event.step, event.value) for event in entries] == list(enumerate(history["accuracy"][:, 1].tolist()))


def test_a_tap_that_lacks_entries_is_given_them(tmp_path):
    """Whatever a run that is resumed has measured before; `resume` says how many the tap holds."""

    class Late:
        def __init__(self, held):
            self.held, self.times, self.over = held, [], False

        def resume(self, time):
            assert time == 2
            return self.held

        def __call__(self, time, entry):
            self.times.append((time, entry["losses"].numbers.tolist()))

        def finish(self):
            self.over = True

    keep, probe = cl.Checkpoint(tmp_path, every=1), cl.trace.probe("losses", beside=PROBE)
    cl.scan(TRACED, traced(), BENCH.train[:2], probe, checkpoint=keep)
    for held, first in [(0, 0), (1, 1), (None, 2)]:
        tap = Late(held)
        cl.scan(TRACED, traced(), BENCH.train[:2], probe, checkpoint=keep, tap=tap)
        assert tap.times == [(t, [3 * t, 3 * t + 1, 3 * t + 2]) for t in range(first, 2)]
        assert tap.over

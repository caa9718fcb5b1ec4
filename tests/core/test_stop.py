"""Rules that end a run, and the progress that it shows."""

from __future__ import annotations

import math
import pickle
import sys

import pytest
import torch

import cl_func as cl
from cl_func import tree

BENCH = cl.testing.small_benchmark(n_experiences=4)
MODEL = cl.models.mlp(6, (8,), 4)
STRATEGY = cl.strategies.naive(MODEL, cl.optim.sgd(0.1), batch_size=3)
PROBE = cl.evaluate(MODEL, BENCH.test)
START = STRATEGY.init(cl.key(0))


def run(stop=None, **more):
    return cl.scan(STRATEGY.update, more.pop("start", START), more.pop("stream", BENCH.train), PROBE, stop=stop, **more)


def after_three(history):
    return len(history["accuracy"]) == 3


def never(history):
    return False


def test_a_stopped_run_is_the_beginning_of_the_whole_one():
    state, history = run(after_three)
    assert tree.equal(state, cl.fold(STRATEGY.update, START, BENCH.train[:3]))
    assert history.pop("stopped").tolist() == [False, False, True]
    whole, whole_history = run()
    assert tree.equal(history, tree.map(lambda leaf: leaf[:3], whole_history))
    last, answers = run(never)
    assert tree.equal(last, whole)
    assert answers.pop("stopped").tolist() == [False] * 4
    assert tree.equal(answers, whole_history)


def test_a_rule_sees_the_history_so_far_and_nothing_else():
    seen = []

    def rule(history):
        seen.append(history)
        return False

    _, history = run(rule, every=3, donate=True)
    assert [len(one["loss"]) for one in seen] == [1, 2]
    assert tree.equal({**seen[-1], "stopped": history["stopped"]}, history)


def test_nothing_is_measured_after_a_stop():
    _, history = run(lambda history: True, every=3)
    assert history["accuracy"].shape == (1, 4)
    iterator = iter(BENCH.train)
    run(lambda history: True, stream=iterator)
    assert next(iterator).index == 1  # what comes behind is left in the iterator


@pytest.mark.parametrize("every", [1, 3])
def test_a_resumed_run_stops_where_it_would_have(tmp_path, every):
    def rule(history):
        return len(history["accuracy"]) == 2

    keep = cl.Checkpoint(tmp_path, every=1)
    whole = run(rule, every=every)
    run(rule, every=every, stream=BENCH.train[:1], checkpoint=keep)
    assert tree.equal(run(rule, every=every, checkpoint=keep), whole)
    longer = [*BENCH.train, *BENCH.train]
    assert tree.equal(run(rule, every=every, checkpoint=keep), whole)
    again = cl.Checkpoint(tmp_path / "list", every=1)
    stopped = run(rule, every=every, stream=list(BENCH.train), checkpoint=again)
    assert tree.equal(run(rule, every=every, stream=longer, checkpoint=again), stopped)


def test_another_rule_is_another_run(tmp_path):
    run(never, checkpoint=cl.Checkpoint(tmp_path))
    with pytest.raises(ValueError, match="stop"):
        run(after_three, checkpoint=cl.Checkpoint(tmp_path))
    with pytest.raises(ValueError, match="stop: no longer there"):
        run(checkpoint=cl.Checkpoint(tmp_path))


def test_lanes_end_together():
    starts = tree.stack([STRATEGY.init(cl.key(i)) for i in range(2)])
    _, history = cl.scan(cl.vmap(STRATEGY.update), starts, BENCH.train, cl.vmap(PROBE), stop=after_three)
    assert history["accuracy"].shape == (3, 2, 4)
    assert history["stopped"].shape == (3,)


@pytest.mark.parametrize(
    ("values", "asked", "at"),
    [
        ([0.1, 0.3, 0.2, 0.3, 0.4], {"n": 2}, 3),  # equal to the best is not better
        ([0.1, 0.3, 0.2, 0.31, 0.4], {"n": 2}, None),
        ([0.1, 0.3, 0.2, 0.31, 0.4], {"n": 2, "least": 0.05}, 3),
        ([0.9, 0.5, 0.6, 0.55, 0.7], {"n": 3, "higher_is_better": False}, 4),
        ([0.9, 0.5, 0.4, 0.3], {"n": 2, "name": "loss"}, None),
        ([0.9, 0.95, 0.91, 0.8], {"n": 2, "name": "valid.mse"}, 2),
        ([0.9, 0.5, 0.4, 0.3], {"n": 2, "name": "valid.f1"}, 2),
        ([math.nan, math.nan, 0.5, math.nan, math.nan], {"n": 2}, 4),
        ([0.1, 0.2], {"n": 5}, None),
    ],
)
def test_patience(values, asked, at):
    rule = pickle.loads(pickle.dumps(cl.stop.patience(**asked)))
    spread = torch.tensor([-0.05, 0.05])
    for shape in ("[time]", "[time, T]"):
        curve = torch.tensor(values) if shape == "[time]" else torch.tensor(values)[:, None] + spread
        answers = [rule({asked.get("name", "accuracy"): curve[: t + 1]}) for t in range(len(values))]
        assert (answers.index(True) if True in answers else None) == at


def test_a_rule_looks_at_one_evaluation_of_several():
    """By the path that its history has in Runs, "valid.accuracy", of a Probe that returns a dict of dicts."""
    one = PROBE
    probe = cl.probes.join(test=one, valid=one)
    for rule, alone in (
        (cl.stop.patience(1, "valid.accuracy"), cl.stop.patience(1)),
        (cl.stop.diverged("valid.loss"), cl.stop.diverged()),
    ):
        answers = [
            cl.scan(STRATEGY.update, START, BENCH.train, measured, stop=asked)[1]["stopped"].tolist()
            for asked, measured in ((rule, probe), (alone, one))
        ]
        assert answers[0] == answers[1]
    with pytest.raises(
        ValueError, match=r"there is no 'accuracy' in the history, but test.accuracy, test.class_accuracy, test.loss, val"
    ):
        cl.scan(STRATEGY.update, START, BENCH.train, probe, stop=cl.stop.patience(1))


def test_a_diverged_run_stops():
    with pytest.warns(UserWarning, match="scan: the run has diverged, at the end the loss is NaN") as caught:
        _, history = run(cl.stop.diverged(), start=tree.set(START, {"opt.lr": 1e30}))
    assert [warning.filename for warning in caught] == [__file__]
    assert history["stopped"].tolist() == [True]
    assert history["loss"].isnan().all()
    rule = cl.stop.diverged()
    assert not rule({"loss": torch.tensor([[math.nan, 1.0]])})  # a test experience without rows
    assert rule({"loss": torch.tensor([[1.0, 1.0], [math.nan, math.inf]])})


def test_bad_rules():
    with pytest.raises(ValueError, match="name: there is no 'acc' in the history, but accuracy, class_accuracy, loss"):
        run(cl.stop.patience(1, "acc", higher_is_better=True))
    with pytest.raises(ValueError, match="higher_is_better: it is not known which way 'acc' is better; give True or False"):
        cl.stop.patience(1, "acc")
    with pytest.raises(ValueError, match="stop: there is nothing to judge without a probe"):
        cl.scan(STRATEGY.update, START, BENCH.train, stop=after_three)
    with pytest.raises(TypeError, match="stop: expected the probe to return a dict"):
        cl.scan(STRATEGY.update, START, BENCH.train, lambda s, e: s.opt.lr, stop=after_three)
    with pytest.raises(ValueError, match="stop: the probe measures something that is called 'stopped'"):
        cl.scan(STRATEGY.update, START, BENCH.train, lambda s, e: {"stopped": s.opt.lr}, stop=after_three)


# -- progress


@pytest.mark.parametrize("there", [True, False], ids=["tqdm", "lines"])
def test_progress_is_shown(there, monkeypatch, capsys):
    if not there:
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    run()
    run(progress=None)  # nobody looks: stderr is captured
    assert capsys.readouterr() == ("", "")
    shown = run(progress=True)
    said = capsys.readouterr().err
    assert ("4/4" if there else "scan: 4 of 4 experiences after") in said
    assert tree.equal(shown, run())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    cl.fold(STRATEGY.update, START, iter(BENCH.train), progress=None)  # of unknown length
    said = capsys.readouterr().err
    assert ("4 experiences [" if there else "scan: 4 experiences after") in said


def test_progress_goes_on_where_the_run_does(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    keep = cl.Checkpoint(tmp_path, every=1)
    run(stream=BENCH.train[:2], checkpoint=keep)
    run(checkpoint=keep, progress=True, stop=None)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" experiences")[0] for line in said] == ["scan: 2 of 4", "scan: 3 of 4", "scan: 4 of 4"]


def test_a_run_that_fails_or_stops_ends_its_bar(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    run(after_three, progress=True)
    assert "scan: 3 of 4 experiences when it stopped" in capsys.readouterr().err

    def fail(state, exp):
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        cl.fold(fail, START, BENCH.train, progress=True)
    assert "scan: 0 of 4 experiences when it stopped" in capsys.readouterr().err

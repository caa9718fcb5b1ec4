"""The benchmark of the online survey: its streams, every method on it, and a run that is interrupted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import cl_func as cl
from benchmarks.accuracy import online_run
from benchmarks.accuracy.online_methods import METHODS
from benchmarks.accuracy.online_run import Protocol, Task, load, measured, run, streams
from benchmarks.accuracy.online_table import OnlineResults, figures

SMALL = Protocol(experiences=2, fraction=1.0, memory=12, evaluations=2, width=2)
EACH = 9  # training images of a class: 45 rows of an experience, of which 43 are trained on, 5 minibatches


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """CIFAR-100 in its binary version, of noise around the brightness of each class."""
    found = tmp_path_factory.mktemp("cifar")
    generator = np.random.default_rng(0)
    for name, count in (("train.bin", EACH), ("test.bin", 2)):
        labels = np.repeat(np.arange(100, dtype=np.uint8), count)
        pixels = (labels[:, None] * 2 + generator.integers(0, 50, (len(labels), 3072))).astype(np.uint8)
        np.concatenate([np.zeros((len(labels), 1), np.uint8), labels[:, None], pixels], 1).tofile(found / name)
    return found


@pytest.fixture(scope="module")
def data(folder):
    return load(folder, 1.0)


def test_the_first_part_of_each_class(folder):
    train, test = load(folder, 0.3)
    assert train.y.bincount().tolist() == [3] * 100
    assert test.y.bincount().tolist() == [1] * 100
    assert torch.equal(train.x[3], load(folder, 1.0)[0].x[EACH])


def test_streams(data):
    found = streams(data, METHODS["ER"], SMALL, seed=0)
    assert len(found.train) == 10
    assert [len(exp) for exp in found.train] == [10] * 10
    assert found.seen == {2: 1, 5: 1, 7: 2, 10: 2}
    assert found.ends == {5, 10}
    rows = [set(torch.cat([exp.rows[exp.valid] for exp in part]).tolist()) for part in (found.train, found.valid)]
    assert [len(part) for part in rows] == [86, 4]
    assert not rows[0] & rows[1]
    classes = [exp.classes.nonzero().flatten().tolist() for exp in found.test]
    assert all(len(own) == 5 for own in classes)
    assert classes == [exp.classes.nonzero().flatten().tolist() for exp in found.valid]
    others = streams(data, METHODS["ER"], SMALL, seed=1)
    assert classes != [exp.classes.nonzero().flatten().tolist() for exp in others.test]

    shuffled = streams(data, METHODS["i.i.d."], SMALL, seed=0)
    assert set(torch.cat([exp.rows[exp.valid] for exp in shuffled.train]).tolist()) == rows[0]
    assert shuffled.train[0].classes.sum() == 10
    assert set(shuffled.seen.values()) == {2}
    assert max(shuffled.ends) == len(shuffled.train)
    (whole,) = streams(data, METHODS["GDumb"], SMALL, seed=0).train
    assert set(whole.rows[whole.valid].tolist()) == rows[0]


def few(model, memory):
    return METHODS["GDumb"].make(model, memory, epochs=2, batch_size=6)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_its_steps_and_is_measured(name, data):
    entry = METHODS[name] if name != "GDumb" else dataclasses.replace(METHODS[name], make=few)
    found = streams(data, entry, SMALL, seed=0)
    strategy = entry.strategy(SMALL.memory, SMALL.width)
    state = start = strategy.init(cl.key(0))
    for exp in found.train[:2]:
        state = strategy.update(state, exp)
    assert all(value.isfinite().all() for value in state.model.params.values())
    assert cl.tree.difference(state.model.params, start.model.params) is not None
    if entry.stream == "online" and name not in ("ER-ACE", "DER++"):  # these offer a minibatch after each of its steps
        held = state.replay.seen if hasattr(state.replay, "seen") else state.replay.filled
        assert int(held) == (20 if hasattr(state.replay, "seen") else 12)
    probe = measured(strategy, [found], *data)
    position = max(found.seen)
    entries = probe(state, found.train[-1])
    assert entries["test"].shape == entries["valid"].shape == (2,)
    assert not entries["test"].isnan().any()
    assert int(found.train[-1].index) + 1 == position


def test_the_teacher_is_taken_at_the_boundaries(data):
    found = streams(data, METHODS["ER + LwF"], SMALL, seed=0)
    strategy = METHODS["ER + LwF"].strategy(SMALL.memory, SMALL.width)
    states = [strategy.init(cl.key(0))]
    for exp in found.train[:7]:
        states.append(strategy.update(states[-1], exp))
    taught = [state.lwf.teacher.params["linear.weight"] for state in states]
    assert all(torch.equal(taught[i], taught[1]) for i in range(1, 6))
    assert torch.equal(taught[6], states[5].model.params["linear.weight"])
    assert torch.equal(taught[7], taught[6])
    assert int(states[7].lwf.old.sum()) == 5


def test_a_run_that_is_killed_resumes_to_the_bit(folder, tmp_path, monkeypatch):
    task = Task("ER", (0,), SMALL, folder, tmp_path, compiled=False)
    (tmp_path / "straight").mkdir()
    straight = run(dataclasses.replace(task, folder=tmp_path / "straight"))
    scan = cl.scan

    class Killed(BaseException):
        """Stands for a signal."""

    def interrupted(*args, tap, **kwargs):
        def stop(time, history):
            if time == 6:
                raise Killed
            tap(time, history)

        checkpoint = dataclasses.replace(kwargs.pop("checkpoint"), every=2)
        return scan(*args, tap=stop, checkpoint=checkpoint, **kwargs)

    monkeypatch.setattr(online_run.cl, "scan", interrupted)
    with pytest.raises(Killed):
        run(task)
    assert not task.result.exists()

    def resumed(*args, **kwargs):
        return scan(*args, **{**kwargs, "checkpoint": dataclasses.replace(kwargs["checkpoint"], every=2)})

    monkeypatch.setattr(online_run.cl, "scan", resumed)
    assert run(task) == straight
    assert task.result.exists()


def test_seeds_as_lanes_equal_runs_of_their_own(folder, tmp_path):
    task = Task("ER-ACE", (0, 1), SMALL, folder, tmp_path, compiled=False)
    together = run(task)
    for one, seed in zip(together, task.seeds, strict=True):
        (alone,) = run(dataclasses.replace(task, seeds=(seed,)))
        assert one.keys() == alone.keys()
        assert {**one, "valid": 0, "test": 0} == {**alone, "valid": 0, "test": 0}
        for name in ("valid", "test"):  # in another order of summation a row may fall on the other side
            assert one[name] == [pytest.approx(row, abs=0.26) for row in alone[name]]


def test_figures_and_the_table():
    run = {
        "method": "ER",
        "seed": 0,
        "minibatches": [2, 5, 7, 10],
        "seen": [1, 1, 2, 2],
        "seen_test": [1, 2],
        "valid": [[0.5, 0.0], [0.8, 0.0], [0.2, 0.6], [0.4, 0.8]],
        "test": [[0.7, 0.0], [0.3, 0.5]],
    }
    assert figures(run) == pytest.approx({"final": 0.4, "ends": 0.55, "stream": (0.5 + 0.8 + 0.4 + 0.6) / 4, "worst": 0.5})
    table = OnlineResults("command", {}, dataclasses.asdict(SMALL), [run])
    assert "| ER | 1 (one run) | 0.400 | 0.550 | 0.575 | 0.500 |" in table.table()
    assert "| ER, the survey's runs | 5 | 0.281 ± 0.015 |" in table.table()
    assert "spread of those with one seed: ER" in table.markdown()
    table.put({**run, "seed": 1})
    assert "one seed" not in table.markdown()
    assert table.run("ER", 1) is not None
    assert table.run("SCR", 0) is None

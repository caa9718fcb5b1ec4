"""A stream of the task labels that come with the rows."""

from __future__ import annotations

import pickle

import pytest
import torch

import cl_func as cl
from cl_func import streams, tree

X = torch.arange(24.0).reshape(8, 3)
TASK = torch.tensor([1, 0, 2, 0, 1, 2, 2, 0])
TARGETS = {
    "class": torch.tensor([3, 0, 1, 2, 3, 1, 1, 0]),
    "multilabel": X % 2 > 0,
    "regression": X[:, :2],
}


@pytest.mark.parametrize("target", TARGETS)
def test_an_experience_for_each_task(target):
    train = cl.Dataset(X, TARGETS[target], TASK)
    test = cl.Dataset(X[:4] + 1, TARGETS[target][:4], TASK[:4], n_classes=train.n_classes)
    bench = streams.split_by_task(train, test)
    for data, stream in ((train, bench.train), (test, bench.test)):
        assert len(stream) == 3
        for i, exp in enumerate(stream):
            rows = (data.task == i).nonzero().flatten()
            assert exp.rows.tolist() == rows.tolist()
            assert torch.equal(exp.x, data.x[rows])
            assert torch.equal(exp.y, data.y[rows])
            assert (int(exp.task), int(exp.index)) == (i, i)
            assert exp.tasks.tolist() == [i] * len(rows)
            assert exp.source.x is data.x
    back = pickle.loads(pickle.dumps(bench))
    assert all(tree.equal(a, b) for a, b in zip(back.train, bench.train, strict=True))


def test_classes_are_those_of_both_sides():
    train = cl.Dataset(X[:2], torch.tensor([0, 1]), torch.tensor([0, 1]), n_classes=4)
    test = cl.Dataset(X[:3], torch.tensor([3, 1, 2]), torch.tensor([0, 0, 1]), n_classes=4)
    for stream in (lambda b: b.train, lambda b: b.test):
        found = [exp.classes.nonzero().flatten().tolist() for exp in stream(streams.split_by_task(train, test))]
        assert found == [[0, 1, 3], [1, 2]]


def test_a_test_set_without_tasks_is_one_experience():
    train = cl.Dataset(X, TARGETS["class"], TASK)
    test = cl.Dataset(X[:3], TARGETS["class"][:3], n_classes=4)
    bench = streams.split_by_task(train, test)
    assert (len(bench.train), len(bench.test)) == (3, 1)
    assert bench.test[0].rows.tolist() == [0, 1, 2]
    assert bench.test[0].classes.tolist() == [True, True, False, True]
    assert bench.train[0].classes.nonzero().flatten().tolist() == [0, 2]
    model = cl.models.mlp(3, hidden=(4,), n_classes=4)
    strategy = cl.strategies.naive(model, cl.optim.sgd(0.1), batch_size=4)
    _, history = cl.scan(strategy.update, strategy.init(cl.key(0)), bench.train, probe=cl.evaluate(model, bench.test))
    assert history["accuracy"].shape == (3, 1)


def test_what_is_no_such_stream_is_refused():
    train = cl.Dataset(X, TARGETS["class"], TASK)
    with pytest.raises(ValueError, match="train: its rows have no task labels"):
        streams.split_by_task(tree.replace(train, task=None), train)
    with pytest.raises(ValueError, match=r"train: no row of the tasks 1, out of 3"):
        streams.split_by_task(tree.replace(train, task=TASK.where(TASK != 1, 0)), train)
    with pytest.raises(ValueError, match=r"test: no row of the tasks 2, out of 3"):
        streams.split_by_task(train, tree.replace(train, task=TASK.clamp(max=1)))
    with pytest.raises(ValueError, match=r"train: no row of the tasks 3, out of 4"):
        streams.split_by_task(train, tree.replace(train, task=TASK + (TASK == 2)))
    with pytest.raises(ValueError, match="train, test: n_classes differ: 4 and 9"):
        streams.split_by_task(train, cl.Dataset(X, TARGETS["class"], n_classes=9))
    with pytest.raises(TypeError, match=r"test: expected a cl\.data\.Dataset"):
        streams.split_by_task(train, X)

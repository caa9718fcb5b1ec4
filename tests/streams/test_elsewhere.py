"""Benchmarks of Avalanche and scenarios of Continuum: stand-ins with their attributes, and the libraries where they are there."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import made_files
import numpy as np
import PIL.Image
import pytest
import torch

import cl_func as cl
from cl_func import streams, tree


class Rows:
    """Items (x, y, t); `eval` gives those without augmentation, which adds 100 to x."""

    def __init__(self, labels, task, first=0, augmented=True):
        self.labels, self.task, self.first, self.augmented = labels, task, first, augmented

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return torch.full((2,), self.first + i + 100.0 * self.augmented), self.labels[i], self.task

    def eval(self):
        return Rows(self.labels, self.task, self.first, augmented=False)


def avalanche(tasks=(0, 0), **changes):
    """Two experiences of the classes 2, 0 and 1, 4 of 6; the test stream begins at x = 10."""
    sides = [
        [
            SimpleNamespace(dataset=Rows(labels, task, 10 * side), task_labels=[task])
            for labels, task in zip(given, tasks, strict=True)
        ]
        for side, given in enumerate((([2, 0, 2], [1, 4]), ([0, 2], [4])))
    ]
    return SimpleNamespace(**{"train_stream": sides[0], "test_stream": sides[1], "n_classes": 6, **changes})


@pytest.mark.parametrize("tasks", [(0, 0), (0, 1)])
def test_an_avalanche_benchmark(tasks):
    bench = streams.from_avalanche(avalanche(tasks))
    assert [exp.y.tolist() for exp in bench.train] == [[2, 0, 2], [1, 4]]
    assert [exp.x[:, 0].tolist() for exp in bench.train] == [[0, 1, 2], [0, 1]]  # without augmentation
    assert [exp.x[:, 0].tolist() for exp in bench.test] == [[10, 11], [10]]
    for stream in (bench.train, bench.test):
        assert [int(exp.task) for exp in stream] == list(tasks)
        assert [int(exp.index) for exp in stream] == [0, 1]
        assert [exp.classes.nonzero().flatten().tolist() for exp in stream] == [[0, 2], [1, 4]]
    assert bench.n_classes == 6
    back = pickle.loads(pickle.dumps(bench))
    assert all(tree.equal(a, b) for a, b in zip(back.train, bench.train, strict=True))


def test_streams_of_different_lengths_and_benchmarks_that_tell_less():
    given = avalanche()
    given.test_stream = given.test_stream[:1]
    del given.n_classes
    for exp in given.train_stream:
        del exp.task_labels
    bench = streams.from_avalanche(given)
    assert (len(bench.train), len(bench.test), bench.n_classes) == (2, 1, 5)
    assert bench.train[1].classes.nonzero().flatten().tolist() == [1, 4]
    assert int(bench.train[1].task) == 0


def test_what_is_no_benchmark_of_avalanche():
    with pytest.raises(TypeError, match="benchmark: expected a benchmark of Avalanche with train_stream and test_stream"):
        streams.from_avalanche([1])
    with pytest.raises(TypeError, match=r"benchmark: train_stream\[0\]: expected an experience of Avalanche with a dataset, got 1"):
        streams.from_avalanche(avalanche(train_stream=[1]))
    with pytest.raises(ValueError, match="benchmark: a stream of it is empty"):
        streams.from_avalanche(avalanche(test_stream=[]))
    mixed = avalanche()
    mixed.test_stream[1].task_labels = [0, 3]
    with pytest.raises(ValueError, match=r"test_stream\[1\]: holds rows of the task labels \[0, 3\]"):
        streams.from_avalanche(mixed)
    odd = avalanche()
    odd.train_stream[1].dataset = [(torch.zeros(3), 0)]
    with pytest.raises(ValueError, match=r"benchmark: two experiences: sample shapes differ"):
        streams.from_avalanche(odd)
    odd.train_stream[1].dataset = [(torch.zeros(2), 0), (torch.zeros(3), 0)]
    with pytest.raises(ValueError, match=r"benchmark: train_stream\[1\]: dataset: items differ in shape"):
        streams.from_avalanche(odd)


# ------------------------------------------------------------------ Continuum


def scenario(side=0):
    return [Rows(labels, np.float64(t), 10 * side, augmented=False) for t, labels in enumerate(([0, 1, 0], [2, 3]))]


@pytest.mark.parametrize("task_labels", [False, True])
def test_scenarios_of_continuum(task_labels):
    bench = streams.from_continuum(scenario(), iter(scenario(1)), task_labels=task_labels)
    for side, stream in enumerate((bench.train, bench.test)):
        assert [exp.y.tolist() for exp in stream] == [[0, 1, 0], [2, 3]]
        assert [exp.x[0, 0].item() for exp in stream] == [10 * side] * 2
        assert [int(exp.task) for exp in stream] == ([0, 1] if task_labels else [0, 0])
        assert [exp.source.task for exp in stream] == [None, None]
        assert [exp.classes.nonzero().flatten().tolist() for exp in stream] == [[0, 1], [2, 3]]


def test_what_is_no_scenario_of_continuum():
    with pytest.raises(TypeError, match="test: expected a scenario of Continuum"):
        streams.from_continuum(scenario(), 3)
    with pytest.raises(ValueError, match="train: a stream of it is empty"):
        streams.from_continuum([], scenario())
    with pytest.raises(TypeError, match="test: task 0: expected rows"):
        streams.from_continuum(scenario(), [3])
    mixed = [(torch.zeros(2), 0, 0), (torch.zeros(2), 0, 1)]
    with pytest.raises(ValueError, match=r"task_labels: train: task 0 holds rows of the task labels \[0, 1\]"):
        streams.from_continuum([mixed], scenario(), task_labels=True)
    with pytest.raises(ValueError, match=r"task_labels: train: task 0 gives no t beside \(x, y\)"):
        streams.from_continuum([[(torch.zeros(2), 0)]], scenario(), task_labels=True)


# ------------------------------------------------------------------ the libraries


class Pictures(torch.utils.data.Dataset):
    def __init__(self, n):
        self.n, self.targets = n, [i % 6 for i in range(n)]

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return PIL.Image.fromarray(made_files.image(i)), self.targets[i]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task_labels", [False, True])
def test_avalanche_itself(task_labels):
    benchmarks = pytest.importorskip("avalanche.benchmarks")
    transforms = pytest.importorskip("torchvision.transforms")
    augment = transforms.Compose([transforms.RandomHorizontalFlip(1.0), transforms.ToTensor()])
    theirs = benchmarks.nc_benchmark(
        *(Pictures(36), Pictures(18), 3, task_labels), seed=1, train_transform=augment, eval_transform=transforms.ToTensor()
    )
    bench = streams.from_avalanche(theirs)
    for side, own in ((theirs.train_stream, bench.train), (theirs.test_stream, bench.test)):
        for exp, ours in zip(side, own, strict=True):
            assert ours.classes.nonzero().flatten().tolist() == sorted(exp.classes_in_this_experience)
            assert int(ours.task) == exp.task_label
            assert ours.y.tolist() == list(exp.dataset.targets)
            assert torch.equal(ours.x, torch.stack([item[0] for item in exp.dataset.eval()]))


@pytest.mark.filterwarnings("ignore")
def test_continuum_itself():
    continuum = pytest.importorskip("continuum")
    x = np.stack([made_files.image(i) for i in range(60)])
    data = [continuum.datasets.InMemoryDataset(x + side, np.arange(60) % 6, train=side == 0) for side in (0, 1)]
    theirs = [continuum.ClassIncremental(part, increment=2, class_order=[5, 3, 1, 0, 2, 4]) for part in data]
    bench = streams.from_continuum(*theirs, task_labels=True)
    for side, own in zip(theirs, (bench.train, bench.test), strict=True):
        for i, (tasks, ours) in enumerate(zip(side, own, strict=True)):
            assert int(ours.task) == i
            assert ours.y.tolist() == [int(item[1]) for item in tasks]
            assert torch.equal(ours.x, torch.stack([item[0] for item in tasks]))
    model = cl.models.mlp(144, hidden=(4,), n_classes=6)
    strategy = cl.strategies.naive(model, cl.optim.sgd(0.1), batch_size=10)
    probe = cl.evaluate(model, bench.test, mask="experience")
    assert cl.scan(strategy.update, strategy.init(cl.key(0)), bench.train, probe=probe)[1]["accuracy"].shape == (3, 3)

"""Streams of datasets, and streams that are made from others, whatever the targets."""

from __future__ import annotations

import pickle
import re

import pytest
import torch

import cl_func as cl
from cl_func import streams, tree

KEY = cl.key(0)
N = 12
X = cl.random.normal(KEY, N * 9).reshape(N, 9)
VALUES = cl.random.normal(cl.random.fold_in(KEY, 1), N * 2).reshape(N, 2)
DATA = {
    "class": cl.Dataset(X, torch.arange(N) % 3),
    "multilabel": cl.Dataset(X, VALUES > 0.3),
    "regression": cl.Dataset(X, VALUES),
    "one target": cl.Dataset(X, VALUES[:, 0]),
}
each = pytest.mark.parametrize("target", DATA)


def pairs(target, n=3):
    data = DATA[target]
    return [(tree.replace(data, x=data.x[: N - i] + i, y=data.y[: N - i]), tree.replace(data, x=data.x + i)) for i in range(n)]


@each
def test_an_experience_for_each_pair(target):
    given = pairs(target)
    bench = streams.from_datasets(iter(given))
    assert len(bench.train) == len(bench.test) == 3
    for i, (train, test) in enumerate(given):
        for data, exp in ((train, bench.train[i]), (test, bench.test[i])):
            assert exp.source is data
            assert torch.equal(exp.x, data.x)
            assert torch.equal(exp.y, data.y)
            assert (int(exp.task), int(exp.index)) == (i, i)
            assert exp.classes.shape == (data.n_classes,)
    back = pickle.loads(pickle.dumps(bench))
    assert all(tree.equal(a, b) for a, b in zip(back.train, bench.train, strict=True))


def test_classes_are_those_of_the_pair():
    one = cl.Dataset(X[:4], torch.tensor([0, 1, 0, 1]), n_classes=4)
    two = cl.Dataset(X[:2], torch.tensor([2, 0]), n_classes=4)
    bench = streams.from_datasets([(one, two), (two, two)])
    assert [exp.classes.tolist() for exp in bench.test] == [[True, True, True, False], [True, False, True, False]]
    assert [exp.classes.tolist() for exp in bench.train] == [[True, True, True, False], [True, False, True, False]]


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ([], ValueError, "pairs: there is none"),
        (DATA["class"], TypeError, "pairs: expected pairs of datasets"),
        ([DATA["class"]], TypeError, r"pairs: expected a pair \(train, test\) of datasets, pair 0 is"),
        ([(DATA["class"], X)], TypeError, "pairs: pair 0: test: expected a cl.data.Dataset"),
        ([(DATA["class"], DATA["regression"])], ValueError, "pairs: pair 0: train, test: targets differ"),
        ([(DATA["regression"], DATA["one target"])], ValueError, "pairs: pair 0: train, test: targets differ"),
        (
            [(DATA["class"],) * 2, (cl.Dataset(X, torch.arange(N)),) * 2],
            ValueError,
            "pairs: the train datasets of pairs 0 and 1: n_classes differ: 3 and 12",
        ),
        (
            [(DATA["class"],) * 2, (cl.Dataset(X[:, :3], torch.arange(N) % 3),) * 2],
            ValueError,
            "pairs 0 and 1: sample shapes differ",
        ),
    ],
)
def test_what_is_no_stream_is_refused(given, error, match):
    with pytest.raises(error, match=match):
        streams.from_datasets(given)


LABELLED = torch.arange(N) % 3


@pytest.mark.parametrize(
    ("y", "before", "code", "after"),
    [
        (LABELLED.double(), "if they are class numbers", "y.long()", ", or in numpy y.astype(numpy.int64)"),
        (LABELLED.float()[:, None], "if they are class numbers", "y[:, 0].long()", ""),
        (torch.eye(3)[LABELLED], "if each row is one class, one-hot", "y.argmax(1)", ""),
        (torch.eye(3)[LABELLED] > 0, "if each row is one class, one-hot", "y.long().argmax(1)", ", or in numpy y.argmax(1)"),
    ],
)
def test_targets_that_may_be_meant_as_classes_are_converted(y, before, code, after):
    data = cl.Dataset(X, y)
    mend = re.escape(f"; {before}, convert them with {code}{after}.")
    with pytest.raises(ValueError, match=rf"y: a stream that splits by class is for class labels; .*\]{mend}$"):
        streams.split_by_class(data, data, 3)
    assert torch.equal(eval(code, {"y": y}), LABELLED)


def test_targets_that_are_no_classes_are_not_converted():
    data = cl.Dataset(X, LABELLED + 0.5)
    with pytest.raises(ValueError, match=rf"is for class labels; this data has targets for regression, float32\[{N}\]\.$"):
        streams.split_by_class(data, data, 3)


@each
def test_streams_made_from_others_keep_the_targets(target):
    """Every row of what they give has the target that it had in the data."""
    data = DATA[target]
    whole = cl.Benchmark(*(streams.permuted(data, data, 2, key=KEY).train,) * 2)
    for bench in (whole, streams.rotated(data, data, 2), streams.from_datasets([(data, data)] * 2)):
        made = {
            "itself": bench,
            "online": streams.split_online(bench, 5),
            "validation": streams.with_validation(bench, 0.3, key=KEY),
            "cumulative": streams.cumulative(bench),
        }
        halves = cl.experiences.stream([cl.experience(data, torch.arange(i * 6, i * 6 + 6), index=i) for i in range(2)])
        made["blurred"] = streams.blurred(cl.Benchmark(halves, halves), 0.5, key=KEY)
        for name, one in made.items():
            for exp in (*one.train, *one.test, *(one.valid or ())):
                y = exp.y[exp.valid]
                assert y.dtype == data.y.dtype, name
                assert exp.classes.shape == (data.n_classes,), name
                for x, own in zip(exp.x[exp.valid], y, strict=True):
                    # Permuted features keep their sum, rotations by 180 degrees too.
                    (source,) = torch.isclose(x.double().sum(), X.double().sum(1), atol=1e-4).nonzero().flatten().tolist()
                    assert torch.equal(own, data.y[source]), name
            back = pickle.loads(pickle.dumps(one))
            assert all(tree.equal(a, b) for a, b in zip(back.train, one.train, strict=True)), name


@pytest.mark.parametrize("target", ["multilabel", "regression", "one target"])
def test_streams_by_class_are_refused_in_one_line(target):
    data = DATA[target]
    for make in (
        streams.split_by_class,
        streams.task_incremental,
        streams.domain_incremental,
        lambda a, b, n: streams.class_repetition(a, b, n, probability=0.5, key=KEY),
    ):
        with pytest.raises(ValueError, match="y: a stream that splits by class is for class labels; this data has") as error:
            make(data, data, 2)
        assert "\n" not in str(error.value)

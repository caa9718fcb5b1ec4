"""Streams whose inputs go through a function, and streams that are drawn; slowly changing regression by its equations."""

from __future__ import annotations

import functools
import pickle

import pytest
import torch
from test_streams import IMAGES, KEY, pair

import cl_func as cl
from cl_func import random, streams, testing, tree
from cl_func.experiences import Benchmark


def scaled(x, by):
    return by * x


def shifted(x, params):
    return x + params["by"]


def wave(key, phase):
    x = random.uniform(key, 1)
    return x, torch.sin(x + phase)


def halves(key, params):
    x = random.normal(key, 3)
    return x, (x.sum() > 0).long()


# ------------------------------------------------------------------ mapped


def test_mapped_shows_every_stream_through_the_function():
    bench = streams.with_validation(streams.split_by_class(*IMAGES, n_experiences=3), 0.3, key=KEY)
    found = streams.mapped(bench, functools.partial(scaled, by=2.0))
    for name in ("train", "test", "valid"):
        for one, two in zip(getattr(bench, name), getattr(found, name), strict=True):
            assert torch.equal(two.x, 2 * one.x)
            assert torch.equal(two.y, one.y)
            assert torch.equal(two.rows, one.rows)
            assert two.source.source is one.source
    assert tree.difference(pickle.loads(pickle.dumps(found)).train[1], found.train[1]) is None


def test_mapped_by_parameters_of_each_experience():
    bench = streams.split_by_class(*pair(), n_experiences=3)
    drift = streams.mapped(bench, shifted, {"by": torch.tensor([0.0, 10.0, 20.0])})
    for i, (one, two) in enumerate(zip(bench.test, drift.test, strict=True)):
        assert torch.equal(two.x, one.x + 10 * i)
    assert len({tree.flatten(exp)[1] for exp in drift.train}) == 1
    fixed = streams.mapped(bench, shifted, {"by": torch.tensor([3.0])})
    assert torch.equal(fixed.train[2].x, bench.train[2].x + 3)


def test_what_is_made_from_mapped_streams():
    bench = streams.mapped(streams.task_incremental(*pair(), n_experiences=3), functools.partial(scaled, by=2.0))
    plain = streams.task_incremental(*pair(), n_experiences=3)
    for make in (
        lambda b: streams.split_online(b, 4),
        lambda b: streams.blurred(b, key=KEY),
        streams.cumulative,
        lambda b: streams.split_online(streams.blurred(b, key=KEY), 7),
    ):
        for one, two in zip(make(plain).train, make(bench).train, strict=True):
            assert torch.equal(two.x, 2 * one.x)
            assert torch.equal(two.tasks, one.tasks)
            assert torch.equal(two.classes, one.classes)
    drift = streams.mapped(streams.split_by_class(*pair(), n_experiences=3), shifted, {"by": torch.tensor([0.0, 10.0, 20.0])})
    joint = streams.cumulative(drift).train[2]
    assert torch.equal(joint.x, torch.cat([exp.x for exp in drift.train]))
    assert torch.equal(joint.y, torch.cat([exp.y for exp in drift.train]))


def test_mapped_refuses():
    bench = streams.split_by_class(*pair(), n_experiences=3)
    with pytest.raises(ValueError, match=r"params: expected a first axis of the 3 experiences of train.*got float32\[2\] at 'by'"):
        streams.mapped(bench, shifted, {"by": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"got float32\[\]\.$"):
        streams.mapped(bench, torch.mul, torch.tensor(2.0))
    with pytest.raises(TypeError, match="function: expected it to return inputs"):
        streams.mapped(bench, torch.isnan)
    with pytest.raises(TypeError, match="benchmark: expected a Benchmark"):
        streams.mapped(bench.train, torch.neg)


# ------------------------------------------------------------------ generated


def test_generated_by_hand():
    phases = torch.tensor([0.0, 1.0, 2.0])
    bench = streams.generated(wave, 3, train_size=20, test_size=5, key=KEY, params=phases)
    for i in range(3):
        train, test = bench.train[i], bench.test[i]
        assert len(train), len(test) == (20, 5)
        for exp in (train, test):
            torch.testing.assert_close(exp.y, torch.sin(exp.x + phases[i]))
            assert (int(exp.index), int(exp.task), len(exp.classes)) == (i, 0, 0)
        x, _ = wave(random.fold_in(random.fold_in(KEY, i), 3), phases[i])
        assert torch.equal(train.x[3], x)
        assert set(train.rows.tolist()).isdisjoint(test.rows.tolist())
    assert len({float(exp.x[0]) for exp in bench.train}) == 3
    assert tree.difference(pickle.loads(pickle.dumps(bench)).train[1], bench.train[1]) is None


def test_generated_classes_through_what_is_made_of_streams():
    bench = streams.generated(halves, 2, train_size=20, test_size=5, key=random.key(7), n_classes=2)
    assert bench.n_classes == 2
    pieces = streams.split_online(bench, 6)
    assert len(pieces.train) == 8
    held = streams.with_validation(bench, 0.25, key=KEY)
    assert [len(exp) for exp in held.train] == [15, 15]
    joint = streams.cumulative(bench).train[1]
    assert torch.equal(joint.x, torch.cat([exp.x for exp in bench.train]))
    assert torch.equal(joint.y, torch.cat([exp.y for exp in bench.train]))
    testing.check_strategy(cl.strategies.naive(cl.models.mlp(3, (4,), 2), cl.optim.sgd(0.1), batch_size=6), bench)


def test_generated_refuses():
    with pytest.raises(ValueError, match="n_classes: expected the number of classes"):
        streams.generated(halves, 2, train_size=20, test_size=5, key=KEY)
    with pytest.raises(ValueError, match="params: expected a first axis of the 2 experiences of the stream"):
        streams.generated(wave, 2, train_size=20, test_size=5, key=KEY, params=torch.zeros(3))
    with pytest.raises(ValueError, match="test_size: expected an integer of at least 1, got 0"):
        streams.generated(wave, 2, train_size=20, test_size=0, key=KEY, params=torch.zeros(2))


# ------------------------------------------------------------------ slowly changing regression


def test_slowly_changing_regression_by_its_equations():
    bench = streams.slowly_changing_regression(KEY, n_experiences=30, experience_size=50, test_size=20)
    params = tree.map(lambda leaf: leaf, bench.train[0].source.params)
    hidden, output = params["hidden"].double(), params["output"].double()
    assert hidden.shape == (100, 21)
    assert output.shape == (101,)
    assert set(hidden.unique().tolist()) == set(output.unique().tolist()) == {-1.0, 1.0}
    before = None
    for stream in (bench.train, bench.test):
        for i, exp in enumerate(stream):
            x, y = exp.x, exp.y
            assert set(x.unique().tolist()) == {0.0, 1.0}
            assert (x[:, :15] == x[0, :15]).all()  # slow
            if stream is bench.test:
                assert torch.equal(x[0, :15], bench.train[i].x[0, :15])
            elif i:
                assert int((x[0, :15] != before).sum()) == 1
            before = x[0, :15]
            # Unit by unit, with the bit that is always one as the last input.
            inputs = torch.cat([x, torch.ones(len(x), 1)], 1).double()
            expected = output[-1].expand(len(x)).clone()
            for unit, weight in zip(hidden, output[:-1], strict=True):
                negative = int((unit == -1).sum())
                expected += weight * (inputs @ unit > 21 * 0.7 - negative)
            assert torch.equal(y[:, 0].double(), expected)
    fast = torch.cat([exp.x[:, 15:] for exp in bench.train])
    assert ((fast.mean(0) - 0.5).abs() < 5 * 0.5 / len(fast) ** 0.5).all()


def test_slowly_changing_regression_as_the_authors_code_has_it():
    """All flipping bits anew, and the thresholds of `FixLTUNet`: beta (m + 1) - (m - sum_j w_j + b) / 2."""
    options = {"n_experiences": 40, "experience_size": 30, "test_size": 1}
    bench = streams.slowly_changing_regression(KEY, **options, flips="all", thresholds="code")
    flipping = torch.stack([exp.x[0, :15] for exp in bench.train])
    changed = (flipping[1:] != flipping[:-1]).float()
    assert 0.4 < changed.mean() < 0.6
    for exp in bench.train[:3]:
        p = exp.source.params
        weights, bias = p["hidden"][:, :-1], p["hidden"][:, -1]
        tau = 0.7 * 21 - (20 - weights.sum(1) + bias) / 2
        features = (exp.x @ weights.T + bias > tau).float()
        assert torch.equal(exp.y[:, 0], features @ p["output"][:-1] + p["output"][-1])
        # A unit is on if 14 of the 20 bits are as its weights have them, with a bias of -1 if 17 are (in the paper 15).
        matches = (exp.x @ weights.T + (weights < 0).sum(1)).long()
        assert torch.equal(features > 0, matches >= torch.where(bias > 0, 14, 17))
    paper = streams.slowly_changing_regression(KEY, **options)
    assert torch.equal(paper.train[0].source.params["hidden"], bench.train[0].source.params["hidden"])


@pytest.mark.parametrize("name", ["generated", "class splits", "online"])
def test_rows_in_memory_are_those_of_the_stream(name):
    bench = {
        "generated": lambda: streams.slowly_changing_regression(KEY, n_experiences=3, experience_size=20, test_size=10),
        "class splits": lambda: cl.streams.split_by_class(*cl.data.digits(), n_experiences=5),
        "online": lambda: cl.streams.split_online(cl.testing.small_benchmark(), experience_size=4),
    }[name]()
    held = streams.in_memory(bench)
    for stream, other in ((held.train, bench.train), (held.test, bench.test)):
        assert len(stream) == len(other)
        for exp, old in zip(stream, other, strict=True):
            assert torch.equal(exp.x, old.x)
            assert torch.equal(exp.y, old.y)
            assert torch.equal(exp.classes, old.classes)
            assert (exp.index, exp.task, exp.rows.tolist()) == (old.index, old.task, list(range(len(old))))


def test_lanes_hold_rows_of_their_own():
    """A sweep whose seeds have streams of their own gives the same with rows held and with rows drawn in each step."""
    model = cl.models.mlp(20, hidden=(5,), n_classes=1)
    naive = cl.strategies.naive(model, cl.optim.sgd(0.01), loss=cl.losses.mean_squared_error(model), batch_size=4)

    def drawn(key):
        return streams.slowly_changing_regression(key, n_experiences=2, experience_size=20, test_size=10)

    runs = [
        cl.sweep(naive, make, seeds=3, lanes=lanes, compile=False, progress=False)
        for make, lanes in ((drawn, 1), (lambda key: streams.in_memory(drawn(key)), 3))
    ]
    assert torch.allclose(runs[0].history["mse"], runs[1].history["mse"], rtol=1e-5)
    runs = [
        cl.sweep(naive, make, seeds=3, lanes=lanes, compile=False, progress=False)
        for make, lanes in (
            (lambda key: streams.cumulative(drawn(key)), 1),
            (lambda key: streams.cumulative(streams.in_memory(drawn(key))), 3),
        )
    ]
    assert torch.allclose(runs[0].history["mse"], runs[1].history["mse"], rtol=1e-5)


def test_slowly_changing_regression_needs_no_memory_and_differs_by_key():
    bench = streams.slowly_changing_regression(KEY, n_experiences=10_000, experience_size=10**7)
    assert sum(leaf.numel() for leaf in tree.leaves(bench.train[9_999].source)) < 3_000
    other = streams.slowly_changing_regression(random.key(1), n_experiences=2)
    assert not torch.equal(other.train[0].source.params["hidden"], bench.train[0].source.params["hidden"])
    none = streams.slowly_changing_regression(KEY, n_experiences=2, experience_size=5, n_flipping=0)
    assert none.train[1].x.shape == (5, 20)
    with pytest.raises(ValueError, match="n_flipping: expected at most the 20 inputs, got 21"):
        streams.slowly_changing_regression(KEY, n_flipping=21)


def test_a_benchmark_needs_its_streams():
    bench = streams.generated(halves, 2, train_size=4, test_size=2, key=KEY, n_classes=2)
    assert isinstance(streams.mapped(bench, torch.neg), Benchmark)
    assert torch.equal(streams.mapped(bench, torch.neg).train[1].x, -bench.train[1].x)

"""Streams whose classes come back and streams whose boundaries are blurred: every row once, the class sets as specified."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_streams import KEY, all_rows, make, pair, rows

import cl_func as cl
from cl_func import random, streams, tree
from cl_func.experiences import Benchmark, experience, stack, stream
from cl_func.streams.blurred import _exchange

STREAMS = {
    "class_repetition": lambda key=KEY: streams.class_repetition(
        *pair(), n_experiences=4, probability=0.5, introductions=3, key=key
    ),
    "blurred": lambda key=KEY: streams.blurred(streams.split_by_class(*pair(), n_experiences=3), 0.3, key=key),
    "blurred tasks": lambda key=KEY: streams.blurred(streams.task_incremental(*pair(), n_experiences=3), key=key),
    "online": lambda key=KEY: streams.split_online(streams.blurred(streams.split_by_class(*pair(), n_experiences=3), key=key), 4),
    "cumulative": lambda key=KEY: streams.cumulative(streams.class_repetition(*pair(), n_experiences=3, probability=0.5, key=key)),
}
each_stream = pytest.mark.parametrize("name", STREAMS)


# ------------------------------------------------------------------ laws of both


@each_stream
def test_deterministic_from_the_key_indexed_and_pickles(name):
    before = torch.get_rng_state()
    bench, again, other = STREAMS[name](), STREAMS[name](), STREAMS[name](random.key(5))
    copy = pickle.loads(pickle.dumps(bench))
    for i, exp in enumerate(bench.train):
        assert int(exp.index) == i
        for same in (again, copy):
            assert tree.difference(exp, same.train[i]) is None
        assert tree.difference(exp, bench.train[i - len(bench.train)]) is None
        assert exp.classes[exp.y[exp.valid]].all()
    assert len({tree.flatten(exp)[1] for exp in bench.train}) == 1
    assert [rows(exp) for exp in bench.train] != [rows(exp) for exp in other.train]
    assert torch.equal(before, torch.get_rng_state())


@each_stream
def test_no_data_is_copied(name):
    bench = STREAMS[name]()
    assert len({exp.source.x.data_ptr() for exp in bench.train}) == 1


@pytest.mark.parametrize("build", ["class_repetition", "blurred"])
def test_streams_per_seed_run_in_lanes(build):
    """Lane i of one run over both streams is the single run over stream i; the experiences may differ in length."""
    train, test = pair()

    def bench(key):
        if build == "class_repetition":
            return streams.class_repetition(train, test, 3, probability=0.5, key=key)
        return streams.blurred(streams.split_by_class(train, test, 3), key=key)

    keys = [random.key(seed) for seed in (1, 2)]
    benches = [bench(key) for key in keys]
    model = cl.models.mlp(4, hidden=(5,), n_classes=6)
    strategy = cl.strategies.er(model, cl.optim.sgd(1e-4), capacity=6, replay_size=4)
    lanes = tree.stack([strategy.init(key) for key in keys])
    for exps in zip(*(b.train for b in benches), strict=True):
        lanes = cl.vmap(strategy.update)(lanes, stack(exps))
    for i, key in enumerate(keys):
        single = cl.fold(strategy.update, strategy.init(key), benches[i].train)
        assert tree.difference(tree.map(lambda leaf, i=i: leaf[i], lanes), single, 1e-3, 1e-4) is None


# ------------------------------------------------------------------ repetition


@st.composite
def repetitions(draw):
    n_classes = draw(st.integers(1, 6))
    introductions = draw(st.sampled_from([n for n in range(1, n_classes + 1) if n_classes % n == 0]))
    n_experiences = introductions + draw(st.integers(0, 4))
    probability = draw(st.floats(0, 1) | st.lists(st.floats(0, 1), min_size=n_classes, max_size=n_classes))
    return n_classes, introductions, n_experiences, probability, draw(st.integers(0, 99))


@settings(max_examples=40, deadline=None)
@given(repetitions())
def test_repetition_classes_and_rows(case):
    n_classes, introductions, n_experiences, probability, seed = case
    train, test = pair(n_classes=n_classes, per_class=11)
    key = random.key(seed)
    bench = streams.class_repetition(train, test, n_experiences, probability=probability, introductions=introductions, key=key)
    plain = streams.split_by_class(train, test, introductions, key=key)
    assert len(bench.train) == n_experiences
    assert sorted(all_rows(bench.train)) == list(range(len(train)))
    chance = probability if isinstance(probability, list) else [probability] * n_classes
    seen = torch.zeros(n_classes, dtype=torch.bool)
    for i, exp in enumerate(bench.train):
        assert torch.equal(torch.bincount(exp.y, minlength=n_classes) > 0, exp.classes)
        assert rows(exp) == sorted(rows(exp))
        assert int(exp.task) == 0
        new = exp.classes & ~seen
        assert torch.equal(new, plain.train[i].classes if i < introductions else torch.zeros_like(seen))
        again = exp.classes & seen
        if exp.classes.sum() > 1:  # a single class may be the one that fills an empty experience
            assert all(chance[c] > 0 for c in again.nonzero().flatten().tolist())
        assert all(again[c] for c in range(n_classes) if seen[c] and chance[c] == 1)
        seen |= exp.classes
    assert seen.all()
    for label in range(n_classes):
        counts = [int((exp.y == label).sum()) for exp in bench.train if exp.classes[label]]
        assert max(counts) - min(counts) <= 1
    for ours, theirs in zip(bench.test, plain.test, strict=True):
        assert tree.difference(ours, theirs) is None


def test_without_repetition_it_is_split_by_class():
    train, test = pair()
    ours = streams.class_repetition(train, test, 3, probability=0.0, key=KEY)
    for one, two in zip(ours.train, streams.split_by_class(train, test, 3, key=KEY).train, strict=True):
        assert tree.difference(one, two) is None


def test_with_certain_repetition_every_class_stays():
    bench = streams.class_repetition(*pair(), 3, probability=1.0, key=KEY)
    assert [int(exp.classes.sum()) for exp in bench.train] == [2, 4, 6]


def test_classes_come_back_as_often_as_asked():
    """1,200 chances per class, each a Bernoulli draw; five standard deviations."""
    train, test = pair(n_classes=4, per_class=40)
    wanted, count, chances = torch.tensor([0.1, 0.3, 0.5, 0.9]), torch.zeros(4), 0
    for seed in range(40):
        bench = streams.class_repetition(train, test, 31, probability=wanted, introductions=1, key=random.key(seed))
        presence = torch.stack([exp.classes for exp in bench.train[1:]]).float()
        count, chances = count + presence.sum(0), chances + len(presence)
    error = count / chances - wanted
    # An experience that would be empty gets a class: 0.9 * 0.7 * 0.5 * 0.1 = 3% of them, shared by four.
    assert (error.abs() < 5 * (wanted * (1 - wanted) / chances).sqrt() + 0.0315 / 4).all()


def test_empty_experiences_get_one_class_and_all_classes_get_some():
    bench = streams.class_repetition(*pair(n_classes=3, per_class=80), 61, probability=0.0, introductions=1, key=KEY)
    later = torch.stack([exp.classes for exp in bench.train[1:]])
    assert (later.sum(1) == 1).all()
    assert (later.sum(0) > 8).all()


def test_repetition_refuses():
    train, test = pair()

    def build(n=3, **kwargs):
        return streams.class_repetition(train, test, n, **{"probability": 0.5, "key": KEY, **kwargs})

    with pytest.raises(ValueError, match=r"probability: expected numbers in \[0, 1\], got 1.5"):
        build(probability=1.5)
    with pytest.raises(ValueError, match=r"probability: expected a finite number, got nan"):
        build(probability=float("nan"))
    with pytest.raises(ValueError, match=r"one for each of the 6 classes, got \[0.5, 0.5\]"):
        build(probability=[0.5, 0.5])
    for wrong in (True, "0.5", None):
        with pytest.raises(TypeError, match=r"probability: expected a number in \[0, 1\], or one for each class"):
            build(probability=wrong)
    with pytest.raises(ValueError, match="introductions: expected at most the 3 experiences, got 6"):
        build(introductions=6)
    with pytest.raises(ValueError, match="n_experiences: expected an integer of at least 1, got 0"):
        build(0)
    with pytest.raises(ValueError, match="n_experiences: 4 does not divide the 6 classes"):
        build(4)
    with pytest.raises(ValueError, match="class 0 is in 12 experiences, but has only 5 rows in train"):
        build(12, introductions=1, probability=1.0)
    with pytest.raises(TypeError, match="key: expected an int64 tensor"):
        build(key=0)


# ------------------------------------------------------------------ blurred


@settings(max_examples=30, deadline=None)
@given(width=st.floats(0.01, 0.5), seed=st.integers(0, 99), n=st.sampled_from([1, 2, 3, 6]), tasks=st.booleans())
def test_blurred_uses_every_row_once_and_mixes_neighbours_only(width, seed, n, tasks):
    train, test = pair(per_class=7)
    bench = (streams.task_incremental if tasks else streams.split_by_class)(train, test, n, key=random.key(seed))
    mixed = streams.blurred(bench, width, key=random.key(seed))
    assert mixed.test is bench.test
    assert sorted(all_rows(mixed.train)) == list(range(len(train)))
    home = {row: i for i, exp in enumerate(bench.train) for row in rows(exp)}
    for i, (before, exp) in enumerate(zip(bench.train, mixed.train, strict=True)):
        assert len(exp) == len(before)
        w = int(width * len(exp))
        origin = [home[row] - i for row in rows(exp)]
        assert set(origin[:w]) <= {-1, 0}
        assert set(origin[w : len(exp) - w]) <= {0}
        assert set(origin[len(exp) - w :]) <= {0, 1}
        assert torch.equal(exp.classes, torch.bincount(exp.y, minlength=6) > 0)
        assert torch.equal(exp.task, before.task)
        assert exp.tasks.tolist() == [i + o if tasks else 0 for o in origin]
        assert exp.valid.all()


def test_the_share_of_the_neighbour_decays_linearly():
    """At distance k of w from the boundary, on either side: (1 - (k + 1/2) / w) / 2, over 1,000 draws; five deviations."""
    w, runs = 8, 1000
    left, right = torch.arange(20), torch.arange(100, 116)
    counts = torch.zeros(2, w)
    for seed in range(runs):
        one, two = _exchange(left, right, 0.5, random.key(seed))
        assert torch.equal(one[: 20 - w], left[: 20 - w])
        assert torch.equal(two[w:], right[w:])
        counts[0] += (one[-w:] >= 100).flip(0)
        counts[1] += two[:w] < 100
    wanted = (1 - (torch.arange(w) + 0.5) / w) / 2
    assert ((counts / runs - wanted).abs() < 5 * (wanted * (1 - wanted) / runs).sqrt()).all()


def test_blurred_online():
    """Cut into small experiences, classes come in one by one around the boundaries."""
    bench = streams.split_by_class(*pair(n_classes=4, per_class=50), n_experiences=2)
    pieces = streams.split_online(streams.blurred(bench, key=KEY), 10).train
    share = [float((piece.y >= 2).float().mean()) for piece in pieces]
    assert sum(share[:3]) < 0.5
    assert 0.5 < sum(share[8:12]) < 3.5
    assert sum(share[-3:]) > 2.5


def test_blurred_drops_padding_and_takes_any_stream():
    data = make()
    exps = [experience(data, torch.arange(i * 10, i * 10 + 10), index=i) for i in range(3)]
    exps[1] = exps[1].take(exps[1].rows, torch.arange(10) < 7)
    mixed = streams.blurred(Benchmark(stream(exps), stream(exps)), key=KEY)
    assert [len(exp) for exp in mixed.train] == [10, 7, 10]
    assert sorted(all_rows(mixed.train)) == [*range(17), *range(20, 30)]


def test_blurred_refuses():
    bench = streams.split_by_class(*pair(), n_experiences=3)
    for width in (0, -0.1, 0.6, float("nan")):
        with pytest.raises(ValueError, match=f"width: expected a finite number in .0, 0.5., got {width}"):
            streams.blurred(bench, width, key=KEY)
    for wrong in (True, "0.1"):
        with pytest.raises(TypeError, match="width: expected a finite number"):
            streams.blurred(bench, wrong, key=KEY)
    with pytest.raises(ValueError, match="not rows of one dataset, so their rows cannot be exchanged"):
        streams.blurred(streams.permuted(*pair(), n_experiences=2, key=KEY), key=KEY)
    data = make()
    exps = [experience(data, torch.arange(3), task=0), experience(data, torch.arange(2, 5), task=1, index=1)]
    with pytest.raises(ValueError, match="a row is in experiences of different task labels"):
        streams.blurred(Benchmark(stream(exps), stream(exps)), key=KEY)
    with pytest.raises(TypeError, match="key: expected an int64 tensor"):
        streams.blurred(bench, key=0)

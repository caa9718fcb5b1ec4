"""Data sorted by class, as a folder of images is read, through every stream, every memory and every method that keeps one.

Nothing may depend on that order: no minibatch of a shuffled or an online loop is of one class, and memories hold their classes in
the shares that they would have in another order. Bounds are of five standard deviations, for fixed keys.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import registry
import torch

import cl_func as cl
from cl_func import memory, projections, streams, tree
from cl_func.experiences import stack

KEY = cl.key(7)
CLASSES, ROWS = 10, 30


def blobs(n_classes=CLASSES, rows=ROWS, features=16, seed=0):
    """Rows class by class, as small square images."""
    centre, noise = cl.random.split(cl.key(seed))
    y = torch.arange(n_classes).repeat_interleave(rows)
    x = 2 * cl.random.normal(centre, (n_classes, features))[y] + cl.random.normal(noise, (len(y), features))
    return cl.Dataset(x, y)


def mixed(data, seed=1):
    """The same rows in a random order."""
    order = cl.random.permutation(cl.key(seed), len(data))
    return cl.Dataset(data.x[order], data.y[order], n_classes=data.n_classes)


def drawn(key, params):
    label, noise = cl.random.split(key)
    return cl.random.normal(noise, 16), cl.random.randint(label, (), 0, CLASSES)


DATA = blobs()
PAIR = (DATA, DATA)
SPLIT = streams.split_by_class(*PAIR, n_experiences=2)
HALVES = [cl.Dataset(exp.x, exp.y, n_classes=CLASSES) for exp in SPLIT.train]
THEIRS = [SimpleNamespace(dataset=list(zip(half.x, half.y, strict=True))) for half in HALVES]  # of Avalanche
BY_TASK = tree.replace(DATA, task=DATA.y // (CLASSES // 2))
STREAMS = {
    "blurred": lambda: streams.blurred(SPLIT, key=KEY),
    "class_repetition": lambda: streams.class_repetition(*PAIR, n_experiences=3, probability=1.0, introductions=2, key=KEY),
    "cumulative": lambda: streams.cumulative(SPLIT),
    "domain_incremental": lambda: streams.domain_incremental(*PAIR, n_experiences=2),
    "from_avalanche": lambda: streams.from_avalanche(SimpleNamespace(train_stream=THEIRS, test_stream=THEIRS)),
    "from_continuum": lambda: streams.from_continuum(*[[exp.dataset for exp in THEIRS]] * 2),
    "from_datasets": lambda: streams.from_datasets([PAIR, PAIR]),
    "generated": lambda: streams.generated(drawn, 2, train_size=300, test_size=10, key=KEY, n_classes=CLASSES),
    "in_memory": lambda: streams.in_memory(SPLIT),
    "mapped": lambda: streams.mapped(SPLIT, torch.neg),
    "permuted": lambda: streams.permuted(*PAIR, n_experiences=2, key=KEY),
    "rotated": lambda: streams.rotated(*PAIR, n_experiences=2),
    "noisy": lambda: streams.noisy(*PAIR, n_experiences=2, key=cl.key(0)),
    "slowly_changing_regression": lambda: streams.slowly_changing_regression(KEY, n_experiences=2, experience_size=50, test_size=9),
    "split_by_class": lambda: SPLIT,
    "split_by_task": lambda: streams.split_by_task(BY_TASK, BY_TASK),
    "split_online": lambda: streams.split_online(SPLIT, 50),
    "task_incremental": lambda: streams.task_incremental(*PAIR, n_experiences=2),
    "with_validation": lambda: streams.with_validation(SPLIT, 0.2, key=KEY),
}
UNSORTED = {"slowly_changing_regression"}  # it has no classes
each_stream = pytest.mark.parametrize("name", [name for name in STREAMS if name not in UNSORTED])


def test_the_table_is_complete():
    assert set(STREAMS) == set(streams.__all__)


def classes_of(exp):
    return len(exp.y[exp.valid].unique())


# ------------------------------------------------------------------ minibatches


@each_stream
@pytest.mark.parametrize("key", [None, cl.key(1)], ids=["default", "key"])
def test_online_pieces_mix_the_classes(name, key):
    """Ten rows of five classes and more are of one class with a chance of 5e-7 at most."""
    bench = STREAMS[name]()
    assert all(classes_of(exp) >= 5 for exp in bench.train)
    if name == "blurred":
        key = None
    pieces = [exp for exp in streams.split_online(bench, 10, key=key).train if exp.valid.all()]
    assert len(pieces) >= 24
    assert all(classes_of(exp) > 1 for exp in pieces)


@each_stream
def test_minibatches_mix_the_classes(name):
    counts = []

    def look(state, exp):
        counts.append((int(exp.valid.sum()), classes_of(exp)))
        return state

    cl.fold(cl.minibatches(look, batch_size=10), cl.Agent(key=KEY), STREAMS[name]().train)
    full = [found for valid, found in counts if valid == 10]
    assert len(full) >= 24
    assert min(full) > 1


@each_stream
def test_without_shuffle_the_order_is_kept(name):
    bench = STREAMS[name]()
    kept = streams.split_online(bench, 10, shuffle=False)
    assert [row for exp in kept.train for row in exp.rows[exp.valid].tolist()] == [
        row for exp in bench.train for row in exp.rows[exp.valid].tolist()
    ]


def test_without_a_key_it_is_the_stream_of_key_0_and_another_key_gives_another():
    same, given, other = (streams.split_online(SPLIT, 10, key=key) for key in (None, cl.key(0), cl.key(1)))
    assert all(tree.equal(a, b) for a, b in zip(same.train, given.train, strict=True))
    assert not any(torch.equal(a.rows, b.rows) for a, b in zip(given.train, other.train, strict=True))


DERIVED = {
    "as it is": lambda bench: bench,
    "slice": lambda bench: cl.Benchmark(bench.train[:2], bench.test),
    "validation": lambda bench: streams.with_validation(bench, 0.2, key=KEY),
    "cumulative": streams.cumulative,
    "cut before": lambda bench: streams.split_online(bench, 50),
}


@pytest.mark.parametrize("derive", DERIVED)
def test_cutting_a_blurred_stream_keeps_its_order(derive):
    """Another order would undo the blur: neighbours' rows would be anywhere in an experience, not near its ends."""
    bench = DERIVED[derive](streams.blurred(SPLIT, 0.2, key=KEY))
    plain, kept = (streams.split_online(bench, 10, shuffle=shuffle) for shuffle in (True, False))
    assert all(tree.equal(a, b) for a, b in zip(plain.train, kept.train, strict=True))
    with pytest.raises(ValueError, match="key: the rows of a blurred stream are in an order already"):
        streams.split_online(bench, 10, key=KEY)


def test_a_key_is_refused_where_nothing_is_drawn():
    with pytest.raises(ValueError, match="key: with shuffle=False no order is drawn"):
        streams.split_online(SPLIT, 10, shuffle=False, key=KEY)


# ------------------------------------------------------------------ memories

FEW, CAPACITY, RUNS = 5, 20, 200
MODEL = cl.models.mlp(16, hidden=(8,), n_classes=FEW)
SORTED = blobs(FEW, rows=24)
ORDERS = {"sorted": SORTED, "mixed": mixed(SORTED)}
SAMPLE = memory.sample(MODEL)
LOGITS = memory.reservoir.insert(fields=memory.dark.fields(MODEL))
UNIFORM = {  # of all rows a uniform sample: a class has a fifth of the rows on average
    "reservoir": (memory.reservoir.init(CAPACITY, SAMPLE), memory.reservoir.insert()),
    "dark": (memory.reservoir.init(CAPACITY, memory.dark.sample(MODEL)), LOGITS),
    "gem": (projections.gem.init(1, CAPACITY, SAMPLE), projections.gem.insert("replay", lambda s, e: e.index * 0)),
}
EQUAL = {  # an equal share for every class, in every run
    "balanced": (memory.balanced.init(CAPACITY, SAMPLE), memory.balanced.insert()),
    "gdumb": (memory.gdumb.init(CAPACITY, SAMPLE, FEW), memory.gdumb.insert()),
    "herding": (memory.herding.init(CAPACITY, SAMPLE, FEW), memory.herding.insert(MODEL)),
    "ring": (memory.ring.init(CAPACITY // FEW, SAMPLE, FEW), memory.ring.insert()),
}
GREEDY = {"gss": (memory.gss.init(CAPACITY, SAMPLE), memory.gss.insert(MODEL, 5))}  # by gradients: as in another order
MEMORIES = UNIFORM | EQUAL | GREEDY


@cl.state
class Storing(cl.Agent):
    replay: Any


def shares(held, n_classes):
    """The share of each class among the rows that the memories of many lanes hold, [lanes, C]."""
    occupied = torch.func.vmap(lambda one: one.occupied.flatten())(held)
    label = torch.where(occupied, held.data["y"].flatten(1), n_classes)
    counts = torch.nn.functional.one_hot(label, n_classes + 1).sum(1)[:, :n_classes]
    return counts / occupied.sum(1, keepdim=True)


def per_lane(data, size, runs):
    """One experience of all the data, for every lane cut in an order of its own if there is a size."""
    bench = streams.split_by_class(data, data, 1)
    if size is None:
        return bench.train
    cut = [streams.split_online(bench, size, key=cl.key(i)).train for i in range(runs)]
    return [stack(exps) for exps in zip(*cut, strict=True)]


def differ(a, b):
    """By how many standard deviations the means of two samples [runs, ...] differ at most."""
    spread = ((a.var(0) + b.var(0)) / len(a)).sqrt()
    return float(((a.mean(0) - b.mean(0)).abs() / spread.clamp(min=1e-6)).max())


@pytest.mark.parametrize("size", [None, 10], ids=["whole", "online"])
@pytest.mark.parametrize("kind", MEMORIES)
def test_memories_of_sorted_rows_hold_all_classes_in_equal_shares(kind, size):
    empty, insert = MEMORIES[kind]
    runs = 20 if kind in EQUAL else RUNS

    def fill(order):
        net = MODEL.init(cl.key(0))
        lanes = tree.stack([Storing(key=cl.key(i), model=net, replay=empty) for i in range(runs)])
        return shares(cl.fold(cl.vmap(insert), lanes, per_lane(ORDERS[order], size, runs)).replay, FEW)

    found = fill("sorted")
    if kind in EQUAL:
        assert torch.equal(found, torch.full((runs, FEW), 1 / FEW))
        return
    assert differ(found, fill("mixed")) < 5
    assert (found == 0).float().mean() < 0.1  # with a fifth on average, 20 rows are without a class at a chance of 1%
    if kind in UNIFORM:  # drawn without replacement, so that the variance is smaller than this
        assert (found.mean(0) - 1 / FEW).abs().max() < 5 * (0.2 * 0.8 / CAPACITY / RUNS) ** 0.5


# ------------------------------------------------------------------ methods

LANES = 48
WITH_CLASSES = blobs(4, rows=12, features=6)
CASES = [
    pytest.param(case, id=f"{case.name.removeprefix('strategies.')}-{i}")
    for i, case in enumerate(registry.STRATEGIES)
    if case.target == "class"
]


def memories(state):
    """The memories among the fields of a state, by name."""
    found = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return {name: value for name, value in found.items() if hasattr(value, "occupied")}


@pytest.mark.parametrize("case", CASES)
def test_methods_do_as_well_on_sorted_data(case):
    """A pass over one experience: the accuracy and the shares of the classes in memories, as on the same rows in another order."""
    strategy = case.make()
    probe = cl.vmap(cl.evaluate(strategy.model, streams.split_by_class(WITH_CLASSES, WITH_CLASSES, 1).test))

    def run(data):
        lanes = tree.stack([strategy.init(cl.key(i)) for i in range(LANES)])
        end = cl.fold(cl.vmap(strategy.update), lanes, streams.split_by_class(data, data, 1).train)
        return probe(end)["accuracy"], memories(end)

    (accuracy, held), (expected, others) = run(WITH_CLASSES), run(mixed(WITH_CLASSES))
    assert differ(accuracy, expected) < 5
    for name, store in held.items():
        found = shares(store, 4)
        assert (found.mean(0) > 0.1).all()
        if isinstance(store, memory.GDumb):  # which class has a row more than another follows from the order they come in
            assert (found.amax(1) - found.amin(1)).max() < 1.01 / store.group.shape[1]
        else:
            assert differ(found, shares(others[name], 4)) < 5


def test_online_er_is_as_accurate_on_sorted_data_and_less_where_the_order_is_kept():
    train, test = cl.data.digits()
    order = torch.argsort(train.y, stable=True)
    by_class = cl.Dataset(train.x[order], train.y[order], n_classes=10)
    strategy = cl.strategies.er(cl.models.mlp(64, (32,), 10), cl.optim.sgd(0.1), capacity=100, replay_size=10)

    def accuracy(data, shuffle):
        bench = streams.split_online(streams.split_by_class(data, test, 2), 10, shuffle=shuffle)
        lanes = tree.stack([strategy.init(cl.key(i)) for i in range(20)])
        state = cl.fold(cl.vmap(strategy.update), lanes, bench.train[: len(bench.train) // 2])  # the first experience
        return cl.vmap(cl.evaluate(strategy.model, bench.test[:1]))(state)["accuracy"][:, 0]

    mean = {(n, s): float(accuracy(d, s).mean()) for n, d in (("sorted", by_class), ("given", train)) for s in (True, False)}
    assert mean["sorted", True] == pytest.approx(mean["given", True], abs=0.03)
    assert mean["sorted", False] < mean["sorted", True] - 0.1

"""A stream of its own for each seed, in lanes of one program: every stream function that draws, and what runs on its streams."""

from __future__ import annotations

import functools
import inspect
import warnings

import pytest
import torch

import cl_func as cl
from cl_func import random, streams, testing, tree
from cl_func.experiences import lane_axes, stack
from cl_func.storage.run_checkpointer import RunCheckpointer
from cl_func.sweeps.run_config import Run, RunConfig
from cl_func.sweeps.run_config import streams as side_by_side
from cl_func.torch_private import TorchDispatchMode

N, CLASSES, SIDE = 24, 4, 4
Y = torch.arange(N) % CLASSES
X = (random.uniform(random.key(3), (N, SIDE * SIDE)) * 256).to(torch.uint8)
TRAIN, TEST = cl.Dataset(X, Y), cl.Dataset(X[:12].flip(0), Y[:12].flip(0))
MODEL = cl.models.mlp(SIDE * SIDE, hidden=(6,), n_classes=CLASSES)
SGD = cl.optim.sgd(0.1)


def drawn(key, params):
    label, noise = random.split(key)
    y = random.randint(label, (), 0, CLASSES)
    return params[y] + random.normal(noise, SIDE * SIDE), y


def a_drift(key):
    split = streams.task_incremental(TRAIN, TEST, 2, key=key)
    return streams.mapped(split, functools.partial(torch.add, alpha=2), random.normal(key, (2, SIDE * SIDE)))


def generated(key):
    centres = random.normal(random.fold_in(key, 9), (1, CLASSES, SIDE * SIDE))
    return streams.generated(drawn, 2, train_size=9, test_size=5, key=key, params=centres, n_classes=CLASSES)


# Stream functions that draw, by name, and what is made from them.
BENCHES = {
    "permuted": lambda key: streams.permuted(TRAIN, TEST, 3, key=key),
    "rotated": lambda key: streams.rotated(TRAIN, TEST, 3, key=key),
    "noisy": lambda key: streams.noisy(TRAIN, TEST, 3, key=key),
    "split_by_class": lambda key: streams.split_by_class(TRAIN, TEST, 2, key=key),
    "task_incremental": lambda key: streams.task_incremental(TRAIN, TEST, 2, key=key),
    "domain_incremental": lambda key: streams.domain_incremental(TRAIN, TEST, 2, key=key),
    "class_repetition": lambda key: streams.class_repetition(TRAIN, TEST, 3, probability=0.5, introductions=2, key=key),
    "blurred": lambda key: streams.blurred(streams.task_incremental(TRAIN, TEST, 2, key=key), key=key),
    "mapped": a_drift,
    "generated": generated,
    "split_online": lambda key: streams.split_online(streams.permuted(TRAIN, TEST, 2, key=key), 5, key=key),
    "with_validation": lambda key: streams.with_validation(streams.rotated(TRAIN, TEST, 2, key=key), 0.3, key=key),
    "cumulative": lambda key: streams.cumulative(streams.permuted(TRAIN, TEST, 3, key=key)),
    "cumulative, task labels": lambda key: streams.cumulative(streams.task_incremental(TRAIN, TEST, 2, key=key)),
    "permuted of rotated": lambda key: streams.permuted(*(cl.sources.rotate(d, 30) for d in (TRAIN, TEST)), 2, key=key),
}
REGRESSION = {"slowly_changing_regression"}


def test_the_table_is_complete():
    drawing = {name for name in streams.__all__ if "key" in inspect.signature(getattr(streams, name)).parameters}
    assert drawing - set(BENCHES) == REGRESSION


def swept(strategy, bench, **asked):
    return cl.sweep(strategy, bench, seeds=[3, 8], compile=False, progress=False, **asked).history


@pytest.mark.filterwarnings("ignore:stream. its")
@pytest.mark.parametrize("name", BENCHES)
def test_lanes_equal_single_runs(name):
    strategy = cl.strategies.er(MODEL, SGD, capacity=6, replay_size=3, batch_size=5)
    if BENCHES[name](cl.key(0)).n_classes != CLASSES:  # domain_incremental
        strategy = cl.strategies.er(cl.models.mlp(16, (6,), 2), SGD, capacity=6, replay_size=3, batch_size=5)
    apart, together = (swept(strategy, BENCHES[name], lanes=lanes) for lanes in (1, 2))
    testing.assert_equal(together, apart, "lanes", 1e-5, 1e-6)
    assert not torch.equal(apart["loss"][0], apart["loss"][1])


def test_slowly_changing_regression_in_lanes():
    model = cl.models.mlp(20, (5,), 1)
    strategy = cl.strategies.naive(model, SGD, loss=cl.losses.mean_squared_error(model), batch_size=1)
    bench = functools.partial(streams.slowly_changing_regression, n_experiences=2, experience_size=6, test_size=4)
    apart, together = (swept(strategy, bench, lanes=lanes) for lanes in (1, 2))
    testing.assert_equal(together, apart, "lanes", 1e-5, 1e-6)


METHODS = {
    "der": {"capacity": 6, "replay_size": 3},
    "lwf": {},
    "gem": {"memory_per_experience": 3, "n_experiences": 3},
    "bic": {"capacity": 14, "replay_size": 3, "validation": 0.4},
    "ewc": {"strength": 1.0},
    "icarl": {"capacity": 8, "replay_size": 3},
    "joint": {},
    "from_scratch": {},
}


@pytest.mark.parametrize("method", METHODS)
def test_methods_in_lanes_over_permutations_of_their_own(method):
    strategy = getattr(cl.strategies, method)(MODEL, SGD, batch_size=5, **METHODS[method])
    apart, together = (swept(strategy, BENCHES["permuted"], lanes=lanes) for lanes in (1, 2))
    testing.assert_equal(together, apart, "lanes", 1e-5, 1e-6)


def test_one_program_for_the_whole_stream_and_all_lanes():
    """Compiled and donated, with the evaluation of each lane on test streams of its own: programs are counted."""
    strategy = cl.strategies.naive(MODEL, SGD, batch_size=8)
    benches = [BENCHES["permuted"](cl.key(seed)) for seed in (3, 8)]
    train, test = side_by_side(benches)
    keys = torch.stack([cl.key(3), cl.key(8)])
    vmapped, probe = cl.vmap(strategy), cl.vmap(cl.evaluate(MODEL, test))
    update, measure = cl.compile(vmapped.update), cl.compile(probe)
    _, found = cl.scan(update, vmapped.init(keys), train, measure, donate=True)
    for program in [*tree.leaves(update), *tree.leaves(measure)]:
        assert sum(map(len, program.programs.values())) == 1
    for i, (seed, bench) in enumerate(zip((3, 8), benches, strict=True)):
        _, alone = cl.scan(strategy.update, strategy.init(cl.key(seed)), bench.train, cl.evaluate(MODEL, bench.test))
        testing.assert_equal(tree.map(lambda leaf, i=i: leaf[:, i], found), alone, "compiled lanes", 1e-4, 1e-5)


# ------------------------------------------------------------------ memory


class Largest(TorchDispatchMode):
    """Records the largest number of bytes that an operation makes, views of what is there not counted."""

    def __init__(self):
        super().__init__()
        self.bytes, self.known = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        inputs = {leaf.untyped_storage().data_ptr() for leaf in tree.leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        for leaf in tree.leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in inputs:
                self.bytes = max(self.bytes, leaf.untyped_storage().nbytes())
        return out


def test_800_permuted_tasks_online_cost_one_data_set():
    n, features = 2_000, 100
    x = random.uniform(cl.key(1), (n, features))
    data = cl.Dataset(x, torch.arange(n) % CLASSES)
    model = cl.models.mlp(features, (4,), CLASSES)
    strategy = cl.strategies.er(model, SGD, capacity=6, replay_size=3)
    update, state = cl.vmap(strategy.update), tree.stack([strategy.init(cl.key(seed)) for seed in (0, 1)])

    def make(key):
        return streams.split_online(streams.permuted(data, data, 800, key=key), 10)

    with Largest() as largest:
        trains = [make(cl.key(seed)).train for seed in (0, 1)]
        train = cl.Stream(functools.partial(_lanes, trains), len(trains[0]))
        for i in (0, 1, 77_777, len(train) - 1):
            exp = train[i]
            assert exp.source.source.x is x
            assert [axis for (path, _), axis in zip(tree.items(exp), lane_axes(exp), strict=True) if path == "source.order"] == [0]
            state = update(state, exp)
    assert len(train) == 800 * 200
    assert largest.bytes <= 8 * n * 2  # row numbers and orders, no inputs
    assert largest.bytes < x.numel() * 4 / 10


def _lanes(trains, index):
    return stack([train[index] for train in trains])


def test_a_device_gets_each_data_set_once():
    config = RunConfig(None, BENCHES["permuted"], device="cpu").on_device()
    benches = [config.benchmark(cl.key(seed)) for seed in range(3)]
    assert len({id(exp.source.source) for bench in benches for exp in bench.train}) == 1
    joint = RunConfig(None, BENCHES["cumulative"], device="cpu").on_device()
    assert len({id(exp.source.views.source) for seed in range(3) for exp in joint.benchmark(cl.key(seed)).train}) == 1


# ------------------------------------------------------------------ memories and checkpoints


def test_a_memory_stores_what_was_shown():
    """Rows in the order of the experience that they came with."""
    bench = BENCHES["permuted"](cl.key(5))
    strategy = cl.strategies.er(MODEL, SGD, capacity=40, replay_size=3)
    end = cl.fold(strategy.update, strategy.init(cl.key(0)), bench.train)
    shown = torch.cat([exp.x for exp in bench.train])
    stored = end.replay.data["x"][end.replay.occupied]
    assert len(stored) == 40
    assert (stored[:, None] == shown[None]).all(-1).any(1).all()
    assert len({tuple(row) for row in stored.tolist()}) == 40


def test_a_checkpoint_knows_the_permutation(tmp_path):
    strategy = cl.strategies.naive(MODEL, SGD, batch_size=8)
    bench, other = (BENCHES["permuted"](cl.key(seed)) for seed in (0, 1))
    expected = cl.fold(strategy.update, strategy.init(cl.key(0)), bench.train)
    for name, listed in (("lazy", lambda stream: stream), ("listed", list)):
        folder = tmp_path / name
        cl.fold(strategy.update, strategy.init(cl.key(0)), listed(bench.train[:2]), checkpoint=cl.Checkpoint(folder))
        with pytest.raises(ValueError, match=r"checkpoint: .* holds another run"):
            cl.fold(strategy.update, strategy.init(cl.key(0)), listed(other.train), checkpoint=cl.Checkpoint(folder))
        again = cl.fold(strategy.update, strategy.init(cl.key(0)), listed(bench.train), checkpoint=cl.Checkpoint(folder))
        testing.assert_equal(again, expected, "resumed")


def test_a_sweep_is_resumed_with_a_stream_per_lane(tmp_path):
    strategy = cl.strategies.er(MODEL, SGD, capacity=6, replay_size=3, batch_size=5)
    looks = []

    def look(state, exp):
        looks.append(1)
        if len(looks) == 2:
            raise KeyboardInterrupt
        return state

    looking = cl.Strategy(strategy.init, cl.compose(strategy.update, look), strategy.model)
    with pytest.raises(KeyboardInterrupt):  # no run is finished
        swept(looking, BENCHES["permuted"], lanes=2, checkpoint=cl.Checkpoint(tmp_path, every=1))
    insisting = cl.Checkpoint(tmp_path, every=1, on_change="warn")
    with pytest.warns(UserWarning, match="looks"):
        resumed = swept(looking, BENCHES["permuted"], lanes=2, checkpoint=insisting)
    assert len(looks) < 2 + 3  # it did not begin anew
    testing.assert_equal(resumed, swept(strategy, BENCHES["permuted"], lanes=2), "resumed")


def test_several_heads_are_for_one_order_of_labels():
    """The heads are of the model, which all seeds share: classes that change places between them are refused, in every lane."""

    def relabelled(key):
        labels = random.permutation(key, CLASSES)
        return streams.task_incremental(*(cl.sources.Relabelled(data, labels) for data in (TRAIN, TEST)), n_experiences=2)

    def reordered(key):
        first.append(int(key))
        order = [0, 1, 2, 3] if key == first[0] else [0, 2, 1, 3]
        return streams.task_incremental(TRAIN, TEST, n_experiences=2, class_order=order)

    model = cl.models.multi_head(MODEL, cl.models.class_masks(relabelled(cl.key(0)).train))
    naive = cl.strategies.naive(model, SGD, batch_size=4)
    alone, together = (
        cl.sweep(naive, relabelled, seeds=3, lanes=lanes, compile=False, progress=False)["accuracy"] for lanes in (1, 3)
    )
    assert torch.equal(alone, together)
    for lanes, where in ((1, r"stream\[0\]"), (3, r"stream\[0\], lane 1")):
        first: list[int] = []
        with pytest.raises(ValueError, match=f"{where}: .* class 2 with the task label 0, whose head has the classes .0, 1.;"):
            cl.sweep(naive, reordered, seeds=3, lanes=lanes, compile=False, progress=False)


def orders(key):
    return streams.split_by_class(TRAIN, TEST, n_experiences=2, key=key)


def both(test):
    return cl.probes.join(class_il=cl.evaluate(MODEL, test), task_il=cl.evaluate(MODEL, test, mask="experience"))


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_probe_is_made_for_the_test_stream_of_each_run(lanes, tmp_path):
    naive, how = cl.strategies.naive(MODEL, SGD, batch_size=4), {"seeds": 3, "compile": False, "progress": False, "lanes": lanes}
    runs = cl.sweep(naive, orders, probe=cl.probes.on_test(both), resume=tmp_path, **how)
    usual = cl.sweep(naive, orders, **how)
    assert torch.equal(runs["class_il.accuracy"], usual["accuracy"])
    for seed in range(3):
        bench = RunConfig(naive, orders).benchmark_of(Run(0, seed, {}))
        _, history = cl.scan(naive.update, naive.init(cl.key(seed)), bench.train, both(bench.test))
        testing.assert_equal(runs["task_il.accuracy"][seed], history["task_il"]["accuracy"], "by hand", 1e-5, 1e-6)
    again = cl.sweep(naive, orders, probe=cl.probes.on_test(both), resume=tmp_path, **{**how, "seeds": 4})
    assert torch.equal(again["task_il.accuracy"][:3], runs["task_il.accuracy"])
    with pytest.raises(ValueError, match=r"What has changed: .*probe"):
        cl.sweep(naive, orders, probe=cl.probes.on_test(functools.partial(cl.evaluate, MODEL)), resume=tmp_path, **how)
    fixed = streams.split_by_class(TRAIN, TEST, n_experiences=2)
    compared = cl.compare({"naive": naive}, fixed, probe=cl.probes.on_test(both), **how)
    assert "task_il.accuracy" in compared.history


def test_one_test_stream_for_seeds_that_have_their_own_is_warned_of():
    naive, how = cl.strategies.naive(MODEL, SGD, batch_size=4), {"seeds": 2, "compile": False, "progress": False}
    fixed = streams.split_by_class(TRAIN, TEST, n_experiences=2)
    probe = both(fixed.test)
    with pytest.warns(UserWarning, match=r"probe: it measures all seeds on one test stream.*cl\.probes\.on_test") as caught:
        cl.sweep(naive, orders, probe=probe, **how)
    assert caught[0].filename == __file__
    cl.sweep(naive, lambda key: streams.split_online(fixed, 4, key=key), probe=probe, **how)  # the test stream is the same
    with pytest.raises(TypeError, match=r"probe: cl\.probes\.on_test\(make\) is for cl\.sweep"):
        cl.probes.on_test(both)(naive.init(cl.key(0)))
    with pytest.raises(TypeError, match=r"probe: expected a Probe"):
        cl.sweep(naive, fixed, probe=cl.probes.on_test(lambda test: 3), **how)
    with pytest.raises(TypeError, match=r"make: expected a function of a test stream"):
        cl.probes.on_test(3)


def test_lanes_of_unequal_length_have_the_passes_of_single_runs():
    """A pass of so many iterations counts padding, so runs whose experiences differ in length are not made lanes of each other."""

    some = cl.Dataset(X, torch.tensor([0] * 9 + [1] * 3 + [2] * 7 + [3] * 5))

    def unequal(key):
        return streams.split_by_class(some, TEST, n_experiences=2, key=key)

    assert (
        len({len(RunConfig(cl.strategies.naive(MODEL, SGD), unequal).benchmark_of(Run(0, i, {})).train[0]) for i in range(4)}) > 1
    )
    how = {"seeds": 4, "compile": False, "progress": False}
    for more, alone in (({"iterations": 9}, True), ({"epochs": 3}, False)):
        method = cl.strategies.naive(MODEL, SGD, batch_size=2, **more)
        single = cl.sweep(method, unequal, lanes=1, **how)["loss"]
        testing.assert_equal(cl.sweep(method, unequal, **how)["loss"], single, "auto", 1e-5, 1e-6)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            testing.assert_equal(cl.sweep(method, unequal, lanes=4, **how)["loss"], single, "lanes", 1e-5, 1e-6)
        assert ["differ in length" in str(one.message) for one in caught] == [True] * alone
    method = cl.strategies.naive(MODEL, SGD, batch_size=2, iterations=9)
    cl.sweep(method, orders, lanes=4, **how)  # of one length: no warning


@pytest.mark.parametrize(("before", "after", "seeds"), [(3, 1, 3), (3, 2, 3), (1, 3, 3), (3, 3, [1, 2])])
@pytest.mark.parametrize("saves", [1, 4])
def test_lanes_of_unequal_length_are_resumed_in_other_lanes(tmp_path, monkeypatch, before, after, seeds, saves):
    """The calls on an experience that were made before the interruption count the padding of the lanes of then."""
    y = torch.arange(6).repeat_interleave(torch.tensor([4, 24, 10, 18, 6, 32]))
    data = cl.Dataset(random.normal(random.key(4), (len(y), 5)) + y[:, None], y)
    model = cl.models.mlp(5, hidden=(6,), n_classes=6)
    method = cl.strategies.er(model, SGD, capacity=8, replay_size=3, batch_size=5, epochs=3)
    run = functools.partial(
        cl.sweep, method, lambda key: streams.split_by_class(data, data, 3, key=key), compile=False, progress=False
    )
    expected = run(seeds=seeds, lanes=1)
    save, made = RunCheckpointer.save, []

    def interrupted(self, state):
        save(self, state)
        made.append(state)
        if len(made) == saves:
            raise KeyboardInterrupt

    checkpoint = cl.Checkpoint(tmp_path, steps=7)
    monkeypatch.setattr(RunCheckpointer, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(seeds=3, lanes=before, checkpoint=checkpoint)
    monkeypatch.undo()
    found = run(seeds=seeds, lanes=after, checkpoint=checkpoint)
    testing.assert_equal(found.history, expected.history, "resumed", 1e-5, 1e-5)

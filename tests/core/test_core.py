"""Composition, minibatches, folds: known answers, errors, and what the docs promise."""

from __future__ import annotations

import pytest
import registry
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cl_func as cl
from cl_func import testing, tree
from cl_func.experiences import pad
from cl_func.sources.dataset import unchecked

BENCH = registry.BENCH
DATA = cl.Dataset(torch.arange(20.0)[:, None], torch.zeros(20, dtype=torch.int64))


@cl.state
class Log(cl.Agent):
    """An agent that adds up the rows that it sees."""

    count: torch.Tensor  # () int64, minibatches
    total: torch.Tensor  # () float32, sum of valid inputs
    rows: torch.Tensor  # [20] int64, how often each row was seen


def log(seed=0):
    return Log(key=cl.key(seed), count=torch.tensor(0), total=torch.tensor(0.0), rows=torch.zeros(20, dtype=torch.int64))


def note(state, exp):
    rows = state.rows.index_add(0, exp.rows, exp.valid.long())
    return state.replace(count=state.count + 1, total=state.total + (exp.x[:, 0] * exp.valid).sum(), rows=rows)


@settings(deadline=None)
@given(
    n=st.integers(1, 20), batch_size=st.integers(1, 25), epochs=st.integers(1, 3), shuffle=st.booleans(), padded=st.integers(0, 7)
)
def test_minibatches_see_each_valid_row_once_per_epoch(n, batch_size, epochs, shuffle, padded):
    exp = cl.experience(DATA, torch.arange(n))
    exp = pad(exp, n + padded)
    out = cl.minibatches(note, batch_size=batch_size, epochs=epochs, shuffle=shuffle)(log(), exp)
    assert out.rows[:n].eq(epochs).all()
    assert out.rows[n:].eq(0).all()
    assert out.count == epochs * -(-n // batch_size)  # minibatches without a valid row are not counted


@settings(deadline=None)
@given(n=st.integers(1, 20), batch_size=st.integers(1, 25), iterations=st.integers(1, 9))
def test_iterations_are_exact_and_full(n, batch_size, iterations):
    out = cl.minibatches(note, batch_size=batch_size, iterations=iterations)(log(), cl.experience(DATA, torch.arange(n)))
    assert out.count == iterations
    assert out.rows.sum() == iterations * batch_size


def test_minibatches_order():
    seen = []

    def look(state, exp):
        seen.append(exp.rows.tolist())
        return state

    exp = cl.experience(DATA, torch.arange(10))
    cl.minibatches(look, batch_size=4, shuffle=False)(log(), exp)
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 9, 9]]
    seen.clear()
    cl.minibatches(look, batch_size=4, drop_last=True, shuffle=False)(log(), exp)
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7]]
    seen.clear()
    cl.minibatches(look, batch_size=4, drop_last=True, epochs=2)(log(), exp)
    assert seen[:2] != seen[2:]
    seen.clear()
    cl.minibatches(look, batch_size=None)(log(), exp)
    assert seen == [list(range(10))]


def test_shuffle_is_uniform_over_orders():
    exp = cl.experience(DATA, torch.arange(3))
    orders = []

    def look(state, exp):
        orders.append(tuple(exp.rows.tolist()))
        return state

    for seed in range(600):
        cl.minibatches(look, batch_size=3)(log(seed), exp)
    counts = torch.tensor([orders.count(order) for order in sorted(set(orders))])
    assert len(counts) == 6
    assert ((counts - 100.0) ** 2 / 100).sum() < 20.5  # chi-square, 5 degrees of freedom, p = 0.001


def test_compose_repeat_at_when():
    exp = cl.experience(DATA)
    out = cl.compose(note, cl.repeat(note, 2), cl.at("total", lambda total, exp: total * 0))(log(), exp)
    assert out.count == 3
    assert out.total == 0
    for condition in (lambda s, e: s.count > 0, lambda s, e: bool(s.count > 0)):
        once = cl.when(condition, note)
        assert once(log(), exp).count == 0
        assert once(note(log(), exp), exp).count == 2


def test_when_selects_lane_by_lane():
    lanes = tree.stack([log(0), log(1).replace(count=torch.tensor(5))])
    out = cl.vmap(cl.when(lambda s, e: s.count > 0, note))(lanes, cl.experience(DATA))
    assert out.count.tolist() == [0, 6]


def test_fold_and_scan():
    stream = [cl.experience(DATA, torch.arange(i, i + 4)) for i in range(5)]
    assert cl.fold(note, log(), stream).count == 5
    _, history = cl.scan(note, log(), stream, lambda s, e: {"count": s.count, "row": e.rows[0]})
    assert history["count"].tolist() == [1, 2, 3, 4, 5]
    assert history["row"].tolist() == [0, 1, 2, 3, 4]
    _, history = cl.scan(note, log(), stream, lambda s, e: s.count, every=2)
    assert history.tolist() == [2, 4, 5]  # the last experience is always measured
    state, history = cl.scan(note, log(), stream)
    assert history is None
    assert state.count == 5


def test_plain_vmap_over_fold():
    strategy = cl.strategies.er(registry.MODEL, registry.SGD, capacity=6, replay_size=4, batch_size=5)
    states = [strategy.init(cl.key(i)) for i in range(3)]
    out = torch.func.vmap(lambda s: cl.fold(strategy.update, s, BENCH.train))(tree.stack(states))
    for state, lane in zip(states, tree.unstack(out), strict=True):
        testing.assert_equal(lane, cl.fold(strategy.update, state, BENCH.train), "vmap", 1e-4, 1e-5)


def test_lanes_may_have_their_own_rows():
    strategy = cl.strategies.naive(registry.MODEL, registry.SGD, batch_size=4)
    exps = [BENCH.train[0], cl.experience(BENCH.train[0].source, BENCH.train[1].rows, index=3)]
    both = tree.replace(
        exps[0], **{name: torch.stack([getattr(e, name) for e in exps]) for name in ("rows", "valid", "classes", "index", "task")}
    )
    states = [strategy.init(cl.key(i)) for i in range(2)]
    lanes = tree.unstack(cl.vmap(strategy.update)(tree.stack(states), both))
    for state, exp, lane in zip(states, exps, lanes, strict=True):
        testing.assert_equal(lane, strategy.update(state, exp), "own rows", 1e-4, 1e-5)


def test_maybe_init_fills_only_what_is_missing():
    net = registry.MODEL.init(cl.key(0))
    agent = cl.Agent(key=cl.key(0), model=net)
    calls = []

    def make(name, value):
        return lambda s: calls.append(name) or value

    out = cl.maybe_init(agent, model=make("model", None), opt=lambda s: {"like": s.model.params["0.weight"] * 0})
    assert out.model is net
    assert calls == []
    assert out.opt["like"].shape == net.params["0.weight"].shape


def test_foreign_optimizer():
    class SignSGD:
        def init(self, params):
            return {"lr": torch.tensor(0.1)}

        def update(self, grads, state, params):
            return tree.map(lambda g: -state["lr"] * g.sign(), grads), state

    step = cl.train_step(cl.losses.cross_entropy(registry.MODEL), SignSGD())
    net = registry.MODEL.init(cl.key(0))
    agent = cl.Agent(key=cl.key(0), model=net, opt=SignSGD().init(net.params))
    out = step(agent, BENCH.train[0])
    moved = (out.model.params["0.weight"] - net.params["0.weight"]).abs()
    assert moved.max() == pytest.approx(0.1, abs=1e-6)


def nan_after(experience):
    def poison(state, exp):
        bad = torch.where(exp.index == experience, float("nan"), 0.0)
        return cl.tree.set(state, {"opt.lr": state.opt.lr + bad})

    return poison


def test_check_finite_names_experience_and_step():
    strategy = cl.strategies.naive(registry.MODEL, registry.SGD, batch_size=7)
    update = cl.check_finite(cl.compose(nan_after(1), strategy.update))
    with pytest.raises(FloatingPointError, match=r"opt\.lr is nan at experience 1, optimiser step 2"):
        cl.fold(update, strategy.init(cl.key(0)), BENCH.train)
    bad = cl.experience(unchecked(torch.full((4, 6), float("inf")), torch.arange(4), None, 4), index=7)
    with pytest.raises(FloatingPointError, match="loss is nan at experience 7, optimiser step 0"):
        cl.check_finite(strategy.update)(strategy.init(cl.key(0)), bad)
    lanes = tree.stack([strategy.init(cl.key(0)), strategy.init(cl.key(1))])
    lanes = tree.set(lanes, {"opt.lr": torch.tensor([0.1, float("inf")])})
    with pytest.raises(FloatingPointError, match=r"lanes \[1\]"):
        cl.check_finite(cl.compile(cl.vmap(strategy.update)))(lanes, BENCH.train[0])
    fine = cl.fold(cl.check_finite(strategy.update), strategy.init(cl.key(0)), BENCH.train)
    testing.assert_equal(fine, cl.fold(strategy.update, strategy.init(cl.key(0)), BENCH.train), "watched")


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: cl.compose(1), TypeError, "updates: expected an Update"),
        (lambda: cl.repeat(note, 0), ValueError, "times: .* at least 1, got 0"),
        (lambda: cl.at("", note), ValueError, "slot: expected a path"),
        (lambda: cl.at("reply", note)(log(), None), ValueError, "'reply'.*there is key, model, opt, count"),
        (lambda: cl.when(True, note), TypeError, "condition: expected a function"),
        (lambda: cl.minibatches(note, batch_size=0), ValueError, "batch_size: .* at least 1, got 0"),
        (lambda: cl.minibatches(note, batch_size=2.0), TypeError, "batch_size"),
        (lambda: cl.minibatches(note, batch_size=2, epochs=2, iterations=3), ValueError, "give one of them"),
        (lambda: cl.minibatches(note, batch_size=2, iterations=0), ValueError, "iterations"),
        (
            lambda: cl.minibatches(note, batch_size=30, drop_last=True)(log(), cl.experience(DATA)),
            ValueError,
            "batch_size: 30 is more",
        ),
        (lambda: cl.train_step(lambda *a: a, object()), TypeError, "optimizer: expected an object with init"),
        (lambda: cl.Strategy(1, note), TypeError, "init: expected a function"),
        (lambda: cl.fold(note, log(), []), ValueError, "stream: it holds no experience"),
        (lambda: cl.fold(note, log(), iter([])), ValueError, "An iterator can be used once only"),
        (lambda: cl.scan(note, log(), [cl.experience(DATA)], every=0), ValueError, "every"),
        (lambda: cl.vmap(3), TypeError, "update: expected an Update"),
        (lambda: cl.vmap(note)(log(), cl.experience(DATA)), ValueError, "leading lane axis"),
        (lambda: BENCH.train[2], IndexError, "experience 2 of a stream of 2"),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize(
    "run", [lambda update: update, cl.compile, lambda update: lambda s, e: cl.vmap(update)(tree.stack([s, s]), e)]
)
def test_parameters_without_a_gradient_are_named(run):
    """As where a whole state_dict is taken for the parameters."""
    step = cl.train_step(cl.losses.cross_entropy(registry.MODEL), registry.SGD)
    state = registry.init(cl.key(0), optimizer=registry.SGD)
    params = {**state.model.params, "0.num_batches_tracked": torch.tensor(3)}
    state = state.replace(model=state.model.replace(params=params))
    with pytest.raises(TypeError, match=r"state.model.params: '0.num_batches_tracked' is int64\[\], which has no gradient; give"):
        run(step)(state, registry.BENCH.train[0])


def test_a_scan_that_diverged_says_so():
    strategy = cl.strategies.naive(registry.MODEL, registry.SGD, batch_size=4)
    probe = cl.evaluate(registry.MODEL, BENCH.test)
    start = strategy.init(cl.key(0))
    wild = tree.set(start, {"opt.lr": 1e30})
    lanes = tree.stack([start, wild])
    joined = cl.probes.join(test=probe, norm=cl.probes.weight_norm())
    for update, state, measure in (
        (strategy.update, wild, probe),
        (strategy.update, wild, joined),
        (cl.vmap(strategy.update), lanes, cl.vmap(probe)),
    ):
        with pytest.warns(UserWarning, match=r"scan: the run has diverged, .* cl\.check_finite\(update\)") as caught:
            cl.scan(update, state, BENCH.train, measure)
        assert [warning.filename for warning in caught] == [__file__]
    cl.scan(strategy.update, start, BENCH.train, joined)
    torch.func.vmap(lambda s: cl.scan(strategy.update, s, BENCH.train, probe)[1])(lanes)  # whose values cannot be read

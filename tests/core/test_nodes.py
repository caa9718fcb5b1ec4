"""A user's combinator, made as the documentation says, works with everything that walks an update."""

from __future__ import annotations

from typing import Any

import pytest
import registry
import torch

import cl_func as cl
from cl_func import testing, tree
from cl_func.core import nodes
from cl_func.storage import fingerprint, resuming

BENCH = testing.small_benchmark(n_experiences=2)
MODEL = cl.models.mlp(6, (8,), 4)
START = cl.strategies.naive(MODEL, cl.optim.adam(1e-2)).init(cl.key(0))


@cl.state
class Halves(cl.core.Combinator):
    """Every other row goes to one Update, the rest to another."""

    first: Any
    second: Any

    child_fields = ("first", "second")

    def calls(self, n):
        return nodes.calls(self.first, n - n // 2) + nodes.calls(self.second, n // 2)

    def __call__(self, state, exp):
        state = self.first(state, exp.take(exp.rows[..., ::2], exp.valid[..., ::2]))
        return self.second(state, exp.take(exp.rows[..., 1::2], exp.valid[..., 1::2]))


def step():
    return cl.train_step(cl.losses.cross_entropy(MODEL), cl.optim.adam(1e-2))


def update(batch_size=4):
    tick = cl.at("opt.lr", lambda lr, exp: lr * 0.9)
    loop = cl.minibatches(step(), batch_size=batch_size, epochs=2)
    return cl.compose(tick, Halves(first=cl.compose(step(), cl.optim.restart()), second=cl.repeat(loop, 2)), tick)


def test_it_obeys_the_laws_compiled_and_not():
    testing.check_strategy(cl.Strategy(lambda key: START.replace(key=key), update(), MODEL), BENCH, compiled=True)


def test_its_calls_are_counted():
    n = len(BENCH.train[0])
    seen = []
    counted = tree.map(lambda leaf: lambda state, exp: seen.append(1) or leaf(state, exp), update())
    counted(START, BENCH.train[0])
    # The order of a minibatch loop is one of its leaves.
    assert nodes.calls(update(), n) == len(seen)


def test_what_is_compiled_is_fused_within_it():
    compiled = cl.compile(update())
    assert nodes.calls(compiled, 14) < nodes.calls(update(), 14)
    (halves,) = [child for child in compiled.children if isinstance(child, Halves)]
    assert not isinstance(halves.first, cl.core.Compose)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("compiled", [False, True])
def test_a_run_goes_on_from_between_any_of_its_calls(tmp_path, monkeypatch, compiled):
    from cl_func.storage import files

    whole = cl.compile(update()) if compiled else update()
    expected, write = cl.fold(whole, START, BENCH.train), files.write
    for at in range(0, 3 * len(BENCH.train), 2):
        left = iter(range(at))

        def dying(*args, left=left):
            if next(left, None) is None:
                raise Killed
            write(*args)

        keep = cl.Checkpoint(tmp_path / str(at), steps=1)
        monkeypatch.setattr(files, "write", dying)
        with pytest.raises(Killed):
            cl.fold(whole, START, BENCH.train, checkpoint=keep)
        monkeypatch.setattr(files, "write", write)
        assert tree.equal(cl.fold(whole, START, BENCH.train, checkpoint=keep), expected)


def test_a_fingerprint_tells_what_has_changed_in_it():
    before, now = (fingerprint.of(update=update(size)) for size in (4, 5))
    (change,) = [found for found in resuming.changes(before, now) if "batch_size" in found and "order" not in found]
    assert "4 -> 5" in change
    assert resuming.changes(before, fingerprint.of(update=cl.compile(cl.vmap(update(4))))) == []


def test_a_fault_within_it_is_found():
    data = BENCH.train[0].source
    bad = tree.replace(BENCH.train[0], source=tree.replace(data, x=data.x * float("inf")))
    for watched in (cl.check_finite(update()), cl.check_finite(cl.compile(update()))):
        with pytest.raises(FloatingPointError, match=r"the loss is nan at experience 0, optimiser step 0"):
            watched(START, bad)


def test_a_sweep_runs_it():
    strategy = cl.Strategy(lambda key: START.replace(key=key), update(), MODEL)
    asked = {"seeds": 3, "progress": False}
    expected = cl.sweep(strategy, BENCH, compile=False, lanes=1, **asked)
    for options in ({}, {"compile": True, "lanes": 3}):
        runs = cl.sweep(strategy, BENCH, **options, **asked)
        torch.testing.assert_close(runs["loss"], expected["loss"], rtol=1e-3, atol=1e-4)


def test_the_loss_is_seen_through_all_that_is_around_a_step():
    """GDumb trains on its memory: the step is inside of the loop that takes its rows from there."""
    strategy = cl.strategies.gdumb(MODEL, cl.optim.sgd(0.1), capacity=6, batch_size=3)
    data = BENCH.train[0].source
    bad = tree.replace(BENCH.train[0], source=tree.replace(data, x=data.x * float("nan")))
    for watched in (cl.check_finite(strategy.update), cl.check_finite(cl.compile(strategy.update))):
        with pytest.raises(FloatingPointError, match=r"(the loss|state.replay.data.x) is nan at experience 0"):
            watched(strategy.init(cl.key(0)), bad)
    for lanes in (False, True):
        state = strategy.init(cl.key(0))
        held = strategy.update(state, BENCH.train[0])
        large = tree.map(lambda leaf: leaf * 1e30, held.model.params)
        held = held.replace(model=held.model.replace(params=large))
        ready = tree.stack([held, held]) if lanes else held
        train = strategy.update.updates[-1]
        watched = cl.check_finite(cl.vmap(train) if lanes else train)
        with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at experience 1"):
            watched(ready, BENCH.train[1])


@pytest.mark.parametrize("case", registry.STRATEGIES, ids=lambda case: case.name)
def test_what_a_strategy_is_made_of_can_be_read(case):
    """Not the addresses of its functions, nor the model's innards each time it occurs."""
    shown = repr(case.make())
    assert "0x" not in shown
    assert max(map(len, shown.split("\n"))) < 1200
    assert len(shown) < 6000

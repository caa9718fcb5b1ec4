"""A function of one kind in the place of another is refused where it is given, by what it takes."""

from __future__ import annotations

import functools

import pytest
import registry
import torch

import cl_func as cl
from cl_func import signatures

MODEL, SGD = registry.MODEL, cl.optim.sgd(0.1)
LOSS, CLIP = cl.losses.cross_entropy(MODEL), cl.optim.clip_by_value(1.0)
STEP = cl.train_step(LOSS, SGD)
STATE, STREAM = cl.strategies.naive(MODEL, SGD).init(cl.key(0)), registry.BENCH.train


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: cl.compose(STEP, LOSS), r"updates: .* got cross_entropy, .*\(params, state, exp\): a Loss; cl\.train_step"),
        (lambda: cl.minibatches(CLIP, batch_size=5), r"step: .*, which takes \(grads, state, exp\): a GradientTransform"),
        (lambda: cl.train_step(STEP, SGD), r"loss: .* got TrainStep, which takes \(state, exp\): an Update or a Probe"),
        (lambda: cl.train_step(LOSS, SGD, STEP), r"transforms: .* got TrainStep"),
        (lambda: cl.losses.total(LOSS, STEP), r"losses: .* got TrainStep"),
        (lambda: cl.fold(LOSS, STATE, STREAM), r"update: .* got cross_entropy"),
        (lambda: cl.vmap(LOSS), r"update: .* got cross_entropy"),
        (lambda: cl.compile(CLIP), r"update: .* a GradientTransform"),
        (lambda: cl.scan(STEP, STATE, STREAM, LOSS), r"probe: .* got cross_entropy"),
        (lambda: cl.evaluate(LOSS, STREAM), r"model: .* got cross_entropy"),
        (lambda: cl.scan(STEP, STATE, STREAM, cl.metrics.forgetting), r"probe: .* got forgetting, which takes \(R\)\."),
        (lambda: cl.compose(cl.plasticity.reset_head), r"updates: .*; give what reset_head\(model, \.\.\.\) returns\."),
        (lambda: cl.train_step(cl.losses.cross_entropy, SGD), r"loss: .*; give what cross_entropy\(model, \.\.\.\) returns\."),
        (lambda: cl.when(lambda state: torch.tensor(True), STEP), r"condition: .* got <lambda>, which takes \(state\)\."),
        (lambda: cl.extend(cl.strategies.naive(MODEL, SGD), after_step=LOSS), r"after_step: .* a Loss"),
        (lambda: cl.extend(cl.strategies.naive(MODEL, SGD), loss=STEP), r"loss: .* got TrainStep"),
    ],
)
def test_another_kind_is_refused_by_name(call, says):
    with pytest.raises(TypeError, match=says):
        call()


def test_what_can_be_called_is_taken():
    class Update:
        def __call__(self, state, exp, *others):
            return state

    def update(state, exp, by=1.0):
        return state

    taken = [
        Update(),
        Update().__call__,
        update,
        functools.partial(update, by=2.0),
        lambda *args: args[0],
        max,
        cl.vmap(STEP),
        STEP,
    ]
    for one in taken:
        assert signatures.update("update", one) is one


def test_functions_of_no_module_are_taken():
    names = {"__name__": None}
    exec("def update(s, e):\n    return s", names)
    assert names["update"].__module__ is None
    assert cl.compose(names["update"])(1, None) == 1


def test_what_a_keyword_takes_away_counts():
    def fn(ticks, steps):
        return ticks / steps

    signatures.function("fn", fn, 1, "a function", keywords=["steps"])
    with pytest.raises(TypeError, match=r"fn: expected a function, got fn, which takes \(ticks, steps\)\."):
        signatures.function("fn", fn, 1, "a function")
    with pytest.raises(TypeError, match="fn: expected a function"):
        signatures.function("fn", fn, 1, "a function", keywords=["every"])
    signatures.function("tap", lambda time, entry, labels: None, 2, "a tap", most=3)
    with pytest.raises(TypeError, match="tap: expected a tap"):
        signatures.function("tap", lambda time: None, 2, "a tap", most=3)


def test_long_values_are_shortened():
    text = cl.tree.describe({f"{i}.weight": torch.zeros(2) for i in range(100)})
    assert len(text) < 300
    assert text.startswith("{0.weight: float32[2], ")
    assert text.endswith(", 99.weight: float32[2]}")
    assert cl.tree.describe(LOSS).startswith("_cross_entropy(model=Model(")
    assert cl.tree.describe([test_long_values_are_shortened, functools.partial(max, 2, key=abs)]) == (
        "[test_long_values_are_shortened, <built-in function max>(2, key=<built-in function abs>)]"
    )

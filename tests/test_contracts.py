"""What functions must return: each wrong return value is refused with the same message, whatever calls the function."""

from __future__ import annotations

import dataclasses
import pickle
import re

import pytest
import registry
import torch

import cl_func as cl
from cl_func import contracts, testing, tree
from cl_func.experiences import pad

BENCH, MODEL, SGD = registry.BENCH, registry.MODEL, registry.SGD
EXP, OTHER = BENCH.train[0], cl.Agent(key=cl.key(1))
LOSS = cl.losses.cross_entropy(MODEL)


@cl.state
class Noted(cl.Agent):
    """An agent with its own slot, which is named as a loss may be."""

    loss: torch.Tensor


def init(key):
    net = MODEL.init(key)
    return Noted(key=cl.random.fold_in(key, 1), model=net, opt=SGD.init(net.params), loss=torch.tensor(1.0))


STATE = init(cl.key(0))
LANES = tree.stack([STATE, init(cl.key(1))])


def broken(**changes):
    return dataclasses.replace(STATE, **changes)


def with_three(state):
    return tree.replace(state, loss=3)


def swept(update, probe=lambda s, e: s.loss, lanes=1):
    strategy = cl.Strategy(init, update)
    asked = {"seeds": 2, "compile": False, "lanes": lanes, "progress": False}
    return cl.sweep(strategy, BENCH, probe=probe, **asked)


TRAIN = {
    "eager": lambda update: update(STATE, EXP),
    "vmapped": lambda update: cl.vmap(update)(LANES, EXP),
    "compiled": lambda update: cl.compile(update)(STATE, EXP),
    "minibatches": lambda update: cl.minibatches(update, batch_size=5)(STATE, EXP),
    "scan": lambda update: cl.scan(update, STATE, BENCH.train, lambda s, e: s.loss),
    "check_finite": lambda update: cl.check_finite(update)(STATE, EXP),
    "check_finite, vmapped": lambda update: cl.check_finite(cl.vmap(update))(LANES, EXP),
    "check_update": lambda update: testing.check_update(update, STATE, EXP),
    "sweep": swept,
    "sweep of lanes": lambda update: swept(update, lanes=2),
}
LOSS_CALLERS = {name: lambda loss, run=run: run(cl.train_step(loss, SGD)) for name, run in TRAIN.items()} | {
    "check_loss": lambda loss: testing.check_loss(loss, STATE, EXP)
}
TRANSFORM_CALLERS = {name: lambda change, run=run: run(cl.train_step(LOSS, SGD, change)) for name, run in TRAIN.items()} | {
    "check_gradient_transform": lambda change: testing.check_gradient_transform(change, STATE, EXP)
}
UPDATE_CALLERS = {
    "fold": lambda update: cl.fold(update, STATE, BENCH.train),
    "fold, vmapped": lambda update: cl.fold(cl.vmap(update), LANES, BENCH.train),
    "fold, compiled": lambda update: cl.fold(cl.compile(update), STATE, BENCH.train),
    "minibatches": lambda update: cl.fold(cl.minibatches(update, batch_size=5), STATE, BENCH.train),
    "minibatches, vmapped": lambda update: cl.fold(cl.vmap(cl.minibatches(update, batch_size=5)), LANES, BENCH.train),
    "compose": lambda update: cl.fold(cl.compose(update, update), STATE, BENCH.train),
    "check_finite": lambda update: cl.fold(cl.check_finite(update), STATE, BENCH.train),
    "check_update": lambda update: testing.check_update(update, STATE, EXP),
    "sweep": swept,
    "sweep of lanes": lambda update: swept(update, lanes=2),
}
PROBE_CALLERS = {
    "scan": lambda probe: cl.scan(lambda s, e: s, STATE, BENCH.train, probe),
    "vmapped": lambda probe: cl.scan(cl.vmap(lambda s, e: s), LANES, BENCH.train, probe),
    "check_probe": lambda probe: testing.check_probe(probe, STATE, EXP),
    "sweep": lambda probe: swept(lambda s, e: s, probe),
    "sweep of lanes": lambda probe: swept(lambda s, e: s, probe, lanes=2),
}


def value(params):
    return params["0.bias"].square().mean() + params["2.bias"].sum()


LOSSES = {  # what a loss returns, what the message says of it
    "forgets the state": (lambda p, s, e: value(p), r"float32\[\].*return value, state"),
    "None for the state": (lambda p, s, e: (value(p), None), r"\(float32\[\], None\).*second is not the state"),
    "a number": (lambda p, s, e: (1.0, s), r"\(1.0, Noted\).*compute the value from `params`"),
    "an integer": (lambda p, s, e: (1, s), r"\(1, Noted\).*compute the value from `params`"),
    "a number alone": (lambda p, s, e: 1.0, r"1\.0.*return value, state"),
    "an integer tensor": (lambda p, s, e: (torch.tensor(1), s), r"\(int64\[\], Noted\).*floating"),
    "shape [1]": (lambda p, s, e: (value(p)[None], s), r"\(float32\[1\], Noted\).*one number.*mean"),
    "None": (lambda p, s, e: None, "None.*return value, state"),
    "a list": (lambda p, s, e: [value(p), s], r"\[float32\[\], Noted\].*return value, state"),
    "a dict": (lambda p, s, e: {"loss": value(p)}, r"\{loss: float32\[\]\}.*return value, state"),
    "swapped": (lambda p, s, e: (s, value(p)), r"\(Noted, float32\[\]\).*the other order"),
    "another class": (lambda p, s, e: (value(p), OTHER), r"\(float32\[\], Agent\).*not the state"),
    "a slot of 3": (lambda p, s, e: (value(p), with_three(s)), r"\b3\b.*torch.tensor\(3\)"),
}
TRANSFORMS = {
    "forgets the state": (lambda g, s, e: g, "return grads, state"),
    "None for the state": (lambda g, s, e: (g, None), "None.*return grads, state"),
    "None": (lambda g, s, e: None, "None.*return grads, state"),
    "a list": (lambda g, s, e: [g, s], "return grads, state"),
    "swapped": (lambda g, s, e: (s, g), "the other order"),
    "another class": (lambda g, s, e: (g, OTHER), "Agent.*return grads, state"),
    "drops a gradient": (lambda g, s, e: ({k: v for k, v in g.items() if k != "0.bias"}, s), "gradients of .*0.bias.*for each"),
    "another shape": (lambda g, s, e: ({**g, "0.bias": g["0.bias"][None]}, s), r"float32\[1, 8\].*keeps the shape"),
    "another dtype": (lambda g, s, e: ({**g, "0.bias": g["0.bias"].double()}, s), r"float64\[8\].*keeps the shape and the dtype"),
    "a number": (lambda g, s, e: ({**g, "0.bias": 0.0}, s), r"0\.0.*keeps the shape"),
    "None for gradients": (lambda g, s, e: (None, s), r"\(None, Noted\).*for each"),
    "a slot of 3": (lambda g, s, e: (g, with_three(s)), r"\b3\b.*torch.tensor\(3\)"),
}
UPDATES = {
    "None": (lambda s, e: None, "None.*end it with"),
    "a tensor": (lambda s, e: s.loss, r"float32\[2?\].*return state"),
    "a number": (lambda s, e: 1.0, r"1\.0"),
    "a pair": (lambda s, e: (s, s.loss), r"\(Noted, float32\[2?\]\).*the state alone"),
    "a list": (lambda s, e: [s], r"\[Noted\].*the state alone"),
    "a dict": (lambda s, e: {"state": s.key}, r"\{state: int64\[2?\]\}.*return state"),
    "another class": (lambda s, e: OTHER.replace(key=s.key), "Agent.*return state"),
    "a slot of 3": (lambda s, e: with_three(s), r"'?loss\b.*\b3\b.*torch.tensor\(3\)"),
}
PROBES = {
    "a number": (lambda s, e: 0.5, r"0\.5.*torch.tensor\(0.5\)"),
    "numbers": (lambda s, e: {"a": s.loss, "b": 0.5}, r"'?b\b.*0\.5.*torch.tensor\(0.5\)"),
    "None": (lambda s, e: None, "None.*return"),
    "a string": (lambda s, e: "good", "'good'.*as a tensor"),
    "an empty dict": (lambda s, e: {}, r"\{\}.*return"),
}


def table(callers, functions):
    return [
        pytest.param(call, function, said, id=f"{caller}-{kind}")
        for caller, call in callers.items()
        for kind, (function, said) in functions.items()
    ]


def refused(call, function, name, said):
    """The message names the argument, what it returned and how to fix it, in a TypeError or in the law that is broken."""
    with pytest.raises((TypeError, AssertionError)) as caught:
        call(function)
    words = str(caught.value)
    assert isinstance(caught.value, contracts.ContractError) or words.startswith("law 'closed' broken"), words
    assert re.search(rf"\b{name}\b", words), words
    assert re.search(said, words, re.DOTALL), words
    assert len(words) < 500, words


@pytest.mark.parametrize(("call", "loss", "said"), table(LOSS_CALLERS, LOSSES))
def test_losses(call, loss, said):
    refused(call, loss, "loss", said)


@pytest.mark.parametrize(("call", "transform", "said"), table(TRANSFORM_CALLERS, TRANSFORMS))
def test_transforms(call, transform, said):
    refused(call, transform, "transforms?|update", said)


@pytest.mark.parametrize(("call", "update", "said"), table(UPDATE_CALLERS, UPDATES))
def test_updates(call, update, said):
    refused(call, update, "update", said)


@pytest.mark.parametrize(("call", "probe", "said"), table(PROBE_CALLERS, PROBES))
def test_probes(call, probe, said):
    refused(call, probe, "probe", said)


def test_the_error_survives_a_process_boundary():
    with pytest.raises(contracts.ContractError) as caught:
        contracts.update_output(None, STATE)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)


# -- losses that do not depend on the parameters

ELSEWHERE = torch.ones(3, requires_grad=True)
INDEPENDENT = {
    "the model's own": lambda p, s, e: (value(s.model.params), s),
    "a constant": lambda p, s, e: (torch.tensor(1.0), s),
    "detached": lambda p, s, e: (value(p).detach(), s),
    "another tensor with a gradient": lambda p, s, e: (ELSEWHERE.sum(), s),
    "its sign": lambda p, s, e: ((p["0.bias"] > 0).float().mean(), s),
}


@pytest.mark.parametrize("loss", INDEPENDENT.values(), ids=INDEPENDENT)
@pytest.mark.parametrize("call", TRAIN.values(), ids=TRAIN)
def test_a_loss_that_does_not_depend_on_the_parameters_is_refused(call, loss):
    with pytest.raises(ValueError, match=r"loss: its value does not depend on the parameters.*compute it from `params`"):
        call(cl.train_step(loss, SGD))


DEPENDENT = {
    "times 0": lambda p, s, e: (0 * value(p), s),
    "of one parameter": lambda p, s, e: (p["0.bias"][0] * 1.0, s),
    "no row counts": lambda p, s, e: (torch.where(e.valid & False, value(p), 0).sum(), s),
}
PART = cl.losses.total(LOSS, lambda p, s, e: (value(s.model.params), s))


@pytest.mark.parametrize("loss", [*DEPENDENT.values(), PART], ids=[*DEPENDENT, "a constant part"])
@pytest.mark.parametrize("call", [run for name, run in TRAIN.items() if name != "compiled"])
def test_a_loss_whose_gradient_is_0_trains_on(call, loss):
    call(cl.train_step(loss, SGD))


def test_a_model_without_parameters_has_no_gradient():
    bare = tree.replace(STATE, model=STATE.model.replace(params={}))
    assert cl.core.gradient(lambda p, s, e: (e.x.mean(), s), bare, EXP)[0] == {}


# -- check_finite


def test_what_is_not_finite_is_named_by_its_path():
    """A slot of the state may be named as the loss is."""

    def note(state, exp):
        return state.replace(loss=state.loss * float("nan"))

    for update, state in ((note, STATE), (cl.vmap(note), LANES)):
        with pytest.raises(FloatingPointError, match=r"^state\.loss is nan at experience 0"):
            cl.check_finite(update)(state, EXP)
    diverged = cl.train_step(lambda p, s, e: (value(p) * float("inf"), s), SGD)
    with pytest.raises(FloatingPointError, match=r"^the loss is -?(inf|nan) at experience 0"):
        cl.check_finite(diverged)(STATE, EXP)


# -- minibatches of minibatches


def test_minibatches_of_minibatches():
    """The order of the inner ones, drawn in each outer one, may be vmapped, and an outer one of padding changes nothing."""
    nested = cl.minibatches(cl.minibatches(cl.train_step(LOSS, SGD), batch_size=3), batch_size=6)
    testing.check_update(nested, STATE, EXP)
    padded = cl.experience(EXP.source, EXP.rows)
    whole = cl.minibatches(cl.minibatches(cl.train_step(LOSS, SGD), batch_size=3), batch_size=6, shuffle=False)
    testing.assert_equal(whole(STATE, pad(padded, 24)), whole(STATE, padded), "padding")

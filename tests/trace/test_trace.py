"""Traces: a number of each step in the state, from there into the history, and read as curves."""

from __future__ import annotations

import math
import pickle

import pytest
import registry
import torch

import cl_func as cl
from cl_func import losses, strategies, tree

BENCH, MODEL = registry.BENCH, registry.MODEL  # two experiences of 14 rows
OPT = cl.optim.sgd(0.1)
NAN = math.nan


@cl.state
class Traced(cl.Agent):
    losses: cl.trace.Trace
    norms: cl.trace.Trace


def init(key, n=100):
    key, net = cl.random.split(key)
    net = MODEL.init(net)
    return Traced(key=key, model=net, opt=OPT.init(net.params), losses=cl.trace.init(n), norms=cl.trace.init(n))


LOSS = cl.trace.loss(losses.cross_entropy(MODEL), slot="losses")
STEP = cl.train_step(LOSS, OPT, cl.trace.grad_norm("norms"), cl.optim.clip_by_global_norm(0.5))
TRAIN = cl.minibatches(STEP, batch_size=5, epochs=2)  # 3 minibatches a pass, 6 steps an experience
PROBE = cl.trace.probe("losses", "norms", beside=cl.evaluate(MODEL, BENCH.test))


def by_hand(state, batch_size=5, epochs=2):
    """Losses and gradient norms of a plain loop with autograd, on the rows that `minibatches` takes."""
    found, norms, seen = [], [], []
    record = cl.minibatches(lambda s, e: seen.append((e.rows, e.valid)) or s, batch_size=batch_size, epochs=epochs)
    params = {name: p.clone().requires_grad_() for name, p in state.model.params.items()}
    for exp in BENCH.train:
        seen.clear()
        state = record(state, exp)
        for rows, valid in seen:
            x, y = exp.source.x[rows[valid]], exp.source.y[rows[valid]]
            logits = torch.relu(x @ params["0.weight"].T + params["0.bias"]) @ params["2.weight"].T + params["2.bias"]
            value = torch.nn.functional.cross_entropy(logits, y)
            grads = torch.autograd.grad(value, list(params.values()))
            norm = math.sqrt(sum(float(g.double().square().sum()) for g in grads))
            found.append(value.item())
            norms.append(norm)
            with torch.no_grad():
                for p, g in zip(params.values(), grads, strict=True):
                    p -= 0.1 * g * min(1.0, 0.5 / (norm + 1e-6))
    return found, norms


def test_the_curves_are_those_of_a_plain_loop():
    state, history = cl.scan(TRAIN, init(cl.key(0)), BENCH.train, PROBE)
    found, norms = by_hand(init(cl.key(0)))
    assert len(found) == 12
    assert cl.trace.read(state.losses).tolist() == pytest.approx(found, rel=1e-4)
    assert cl.trace.read(state.norms).tolist() == pytest.approx(norms, rel=1e-4)
    assert max(norms) > 0.5  # before clipping
    for slot in ("losses", "norms"):
        assert torch.equal(cl.trace.read(history[slot]), cl.trace.read(getattr(state, slot)))
    assert history["losses"].count.tolist() == [6, 12]
    assert history["accuracy"].shape == (2, 2)


def test_recording_changes_nothing_else():
    plain = cl.train_step(losses.cross_entropy(MODEL), OPT, cl.optim.clip_by_global_norm(0.5))
    start = init(cl.key(0))
    without = cl.fold(cl.minibatches(plain, batch_size=5, epochs=2), start, BENCH.train)
    with_traces = cl.fold(TRAIN, start, BENCH.train)
    assert tree.equal(without, with_traces.replace(losses=start.losses, norms=start.norms))


def test_a_ring_of_the_steps_between_two_entries_is_enough():
    _, whole = cl.scan(TRAIN, init(cl.key(0)), BENCH.train, PROBE)
    state, history = cl.scan(TRAIN, init(cl.key(0), n=6), BENCH.train, PROBE)
    assert torch.equal(cl.trace.read(history["losses"]), cl.trace.read(whole["losses"]))
    with pytest.warns(UserWarning, match=r"trace: 6 of 12 values are lost, since it holds 6.*cl\.trace\.init\(12\)\.$"):
        curve = cl.trace.read(state.losses)
    assert curve[:6].isnan().all()
    assert torch.equal(curve[6:], cl.trace.read(whole["losses"])[6:])


def test_a_ring_that_is_too_short_says_so():
    _, whole = cl.scan(TRAIN, init(cl.key(0)), BENCH.train, PROBE)
    _, history = cl.scan(TRAIN, init(cl.key(0), n=4), BENCH.train, PROBE)
    with pytest.warns(UserWarning, match=r"4 of 12 values are lost, since it holds 4; .*cl\.trace\.init\(6\), or measure more"):
        curve = cl.trace.read(history["losses"])
    lost = torch.tensor([0, 1, 6, 7])
    assert curve.isnan().nonzero().flatten().tolist() == lost.tolist()
    kept = ~curve.isnan()
    assert torch.equal(curve[kept], cl.trace.read(whole["losses"])[kept])


def test_what_was_never_recorded_is_an_empty_curve():
    assert cl.trace.read(cl.trace.init(3)).shape == (0,)


@pytest.mark.parametrize("transform", [lambda u: u, cl.compile], ids=["eager", "compiled"])
def test_lanes_have_curves_of_their_own(transform):
    starts = [init(cl.key(i), n=6) for i in range(3)]
    _, together = cl.scan(transform(cl.vmap(TRAIN)), tree.stack(starts), BENCH.train, cl.vmap(PROBE), donate=True)
    curves = cl.trace.read(together["losses"])
    assert curves.shape == (3, 12)
    for start, curve in zip(starts, curves, strict=True):
        _, alone = cl.scan(TRAIN, start, BENCH.train, PROBE)
        assert torch.allclose(curve, cl.trace.read(alone["losses"]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(curves[0], curves[1])


def test_lanes_of_different_lengths_end_with_nan():
    trace = tree.stack([cl.trace.init(4), cl.trace.add(cl.trace.init(4), torch.tensor(2.0))])
    assert torch.equal(cl.trace.read(trace).nan_to_num(-1.0), torch.tensor([[-1.0], [2.0]]))


def test_any_number_is_recorded_where_it_stands():
    update = cl.compose(
        cl.minibatches(cl.compose(STEP, cl.trace.record(lambda s, e: e.valid.sum(), "losses")), batch_size=5),
        cl.trace.record(lambda s, e: s.opt.lr * 2, "norms"),
    )
    state = cl.fold(update, init(cl.key(0)), BENCH.train)
    assert cl.trace.read(state.losses)[1::2].tolist() == [5, 5, 4, 5, 5, 4]
    assert cl.trace.read(state.norms)[3::4].tolist() == pytest.approx([0.2, 0.2])


def test_a_resumed_run_has_the_same_curves(tmp_path):
    keep = cl.Checkpoint(tmp_path, steps=4)
    calls = 0

    def crash(state, exp):
        nonlocal calls
        calls += 1
        if calls == 10:
            raise KeyboardInterrupt
        return state

    def update(crash):
        return cl.minibatches(cl.compose(STEP, crash), batch_size=5, epochs=2)

    whole = cl.scan(update(lambda s, e: s), init(cl.key(0)), BENCH.train, PROBE)
    with pytest.raises(KeyboardInterrupt):
        cl.scan(update(crash), init(cl.key(0)), BENCH.train, PROBE, checkpoint=keep)
    again = cl.Checkpoint(tmp_path, steps=4, on_change="warn")
    with pytest.warns(UserWarning, match="crash"):
        resumed = cl.scan(update(lambda s, e: s), init(cl.key(0)), BENCH.train, PROBE, checkpoint=again)
    assert tree.equal(resumed, whole)
    cl.testing.check_round_trip(whole[1])


def test_a_minibatch_without_rows_records_nothing():
    exp = BENCH.train[0]
    empty = exp.take(exp.rows[:5], torch.zeros(5, dtype=torch.bool))
    assert int(TRAIN(init(cl.key(0)), empty).losses.count) == 0


def test_a_traced_loss_is_for_the_same_targets_and_rows():
    plain = losses.mean_squared_error(MODEL)
    traced = cl.trace.loss(plain)
    assert losses.target_of(traced) == "regression"
    assert losses.row_losses(traced) is losses.row_losses(plain)
    assert losses.row_losses(cl.trace.loss(losses.cross_entropy(MODEL))) is losses.row_losses(None)
    with pytest.raises(ValueError, match="needs the loss of each row"):
        losses.row_losses(cl.trace.loss(losses.cross_entropy(MODEL, mask="seen")))


@cl.state
class TracedER(strategies.ERAgent):
    losses: cl.trace.Trace


def traced_er(capacity=6):
    er = strategies.er(MODEL, OPT, capacity=capacity, replay_size=4, loss=LOSS, batch_size=5)
    return cl.Strategy(lambda key: TracedER(**vars(er.init(key)), losses=cl.trace.init(3)), er.update, MODEL)


def test_a_strategy_of_the_library_takes_a_traced_loss():
    plain = strategies.er(MODEL, OPT, capacity=6, replay_size=4, batch_size=5)
    traced = traced_er()
    state, history = cl.scan(traced.update, traced.init(cl.key(0)), BENCH.train, cl.trace.probe("losses"))
    assert tree.equal(state.model, cl.fold(plain.update, plain.init(cl.key(0)), BENCH.train).model)
    assert cl.trace.read(history["losses"]).shape == (6,)
    cl.testing.check_strategy(traced, BENCH)


def test_names_may_not_meet():
    start = init(cl.key(0))
    for probe, error in [
        (cl.trace.probe("losses", beside=lambda s, e: {"losses": s.opt.lr}), "slots: 'losses' is also measured"),
        (cl.trace.probe("opt"), "slot 'opt': expected a Trace"),
        (cl.trace.probe("nowhere"), "nowhere"),
        (cl.trace.probe("losses", beside=lambda s, e: s.opt.lr), "beside: expected a probe that returns a dict"),
    ]:
        with pytest.raises((TypeError, ValueError), match=error):
            cl.scan(TRAIN, start, BENCH.train, probe)


def test_a_probe_of_traces_comes_back_from_pickle():
    _, history = cl.scan(TRAIN, init(cl.key(0)), BENCH.train, PROBE)
    assert tree.equal(cl.scan(TRAIN, init(cl.key(0)), BENCH.train, pickle.loads(pickle.dumps(PROBE)))[1], history)


def test_bad_arguments_when_applied():
    trace = cl.trace.init(2)
    for value in (1.0, torch.ones(2), torch.tensor(1j)):
        with pytest.raises(TypeError, match="value: expected a tensor of shape"):
            cl.trace.add(trace, value)
    with pytest.raises(TypeError, match="function: expected it to give a tensor"):
        cl.trace.record(lambda s, e: 1.0, "losses")(init(cl.key(0)), BENCH.train[0])
    _, history = cl.scan(TRAIN, init(cl.key(0)), BENCH.train, PROBE)
    with pytest.raises(ValueError, match="trace: expected a whole history"):
        cl.trace.read(tree.map(lambda leaf: leaf[0], history["losses"]))
    with pytest.raises(TypeError, match="trace: expected"):
        cl.trace.read(history)

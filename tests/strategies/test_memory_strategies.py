"""GDumb, GSS and MIR: known answers, and what they do when there is nothing to replay."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import cl_func as cl

BENCH = cl.testing.small_benchmark()
MODEL = cl.models.mlp(6, hidden=(8,), n_classes=4)
SGD = cl.optim.sgd(0.1)
GSS = cl.strategies.gss(MODEL, SGD, capacity=9, replay_size=4, subset_size=3, batch_size=5)
MIR = cl.strategies.mir(MODEL, SGD, capacity=9, replay_size=2, candidates=6, batch_size=5)


def stored(memory):
    return [leaf[memory.occupied] for leaf in (memory.data["x"], memory.data["y"])]


def by_hand(params, x, y, lr=0.1):
    """One step of SGD by torch's own autograd: the new parameters."""
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    loss = F.cross_entropy(MODEL.apply(leaves, {}, x)[0], y)
    grads = torch.autograd.grad(loss, list(leaves.values()))
    return {name: (p - lr * g).detach() for (name, p), g in zip(leaves.items(), grads, strict=True)}


def test_gdumb_is_training_from_the_initial_weights_on_the_memory_alone():
    strategy = cl.strategies.gdumb(MODEL, SGD, capacity=7, epochs=5)
    start = strategy.init(cl.key(0))
    end = cl.fold(strategy.update, start, BENCH.train)
    x, y = stored(end.replay)
    assert torch.bincount(y).tolist() in ([2, 2, 2, 1], [2, 2, 1, 2], [2, 1, 2, 2], [1, 2, 2, 2])
    params = start.model.params
    for _ in range(5):
        params = by_hand(params, x, y)
    cl.testing.assert_equal(end.model.params, params, "by hand", 1e-5, 1e-6)
    assert end.opt.count == 5


def test_gdumb_in_minibatches_goes_over_each_row_of_the_memory_once_per_epoch():
    seen = []

    def step(state, exp):
        seen.append(exp.x[exp.valid])
        assert exp.classes.nonzero().flatten().tolist() == exp.y[exp.valid].unique().tolist()
        return state

    strategy = cl.strategies.gdumb(MODEL, SGD, capacity=30, batch_size=4)
    agent = cl.memory.gdumb.insert()(strategy.init(cl.key(0)), BENCH.train[0])
    cl.memory.rehearse(step, batch_size=4, epochs=2)(agent, BENCH.train[1])
    assert [len(x) for x in seen] == [4, 4, 4, 2, 4, 4, 4, 2]  # 14 of 30 rows are filled; empty minibatches are no steps
    x, _ = stored(agent.replay)
    for half in (seen[:4], seen[4:]):
        assert torch.equal(torch.cat(half).sort(0).values, x.sort(0).values)


def test_gdumb_keeps_the_hyperparameters_that_a_sweep_has_set():
    strategy = cl.strategies.gdumb(MODEL, SGD, capacity=7)
    still = cl.tree.set(strategy.init(cl.key(0)), {"opt.lr": 0.0})
    assert cl.tree.equal(cl.fold(strategy.update, still, BENCH.train).model, still.model)


@pytest.mark.parametrize("strategy", [GSS, MIR], ids=["gss", "mir"])
def test_with_nothing_to_replay_it_is_naive_and_later_it_is_not(strategy):
    """The keys differ by what the methods draw, so the minibatches do: one minibatch per experience takes their order away."""
    factory, size = (cl.strategies.gss, {"subset_size": 3}) if strategy is GSS else (cl.strategies.mir, {"candidates": 6})
    online, naive = factory(MODEL, SGD, capacity=9, replay_size=4, **size), cl.strategies.naive(MODEL, SGD)
    first, plain = online.update(online.init(cl.key(0)), BENCH.train[0]), naive.update(naive.init(cl.key(0)), BENCH.train[0])
    cl.testing.assert_equal(first.model.params, plain.model.params, "naive", 1e-5, 1e-6)
    second, plain = online.update(first, BENCH.train[1]), naive.update(plain, BENCH.train[1])
    assert not cl.tree.equal(second.model.params, plain.model.params, 1e-3, 1e-3)


def test_gss_offers_every_minibatch_to_the_memory_and_in_a_second_pass_again():
    strategy = cl.strategies.gss(MODEL, SGD, capacity=60, replay_size=4, subset_size=3, batch_size=5, epochs=2)
    exp = BENCH.train[0]
    x, _ = stored(strategy.update(strategy.init(cl.key(0)), exp).replay)
    assert torch.equal(x.sort(0).values, torch.cat([exp.x, exp.x]).sort(0).values)


def test_mir_replays_the_rows_whose_loss_rises_most():
    strategy = cl.strategies.mir(MODEL, SGD, capacity=9, replay_size=3, candidates=9, virtual_lr=0.7)
    agent = strategy.update(strategy.init(cl.key(4)), BENCH.train[0])
    exp, params, (x, y) = BENCH.train[1], agent.model.params, stored(agent.replay)
    virtual = by_hand(params, exp.x, exp.y, lr=0.7)

    def losses(params):
        return F.cross_entropy(MODEL.apply(params, {}, x)[0], y, reduction="none")

    worst = (losses(virtual) - losses(params)).argsort(descending=True)[:3]
    expected = by_hand(params, torch.cat([x[worst], exp.x]), torch.cat([y[worst], exp.y]))
    cl.testing.assert_equal(strategy.update(agent, exp).model.params, expected, "by hand", 1e-5, 1e-6)
    others = by_hand(params, torch.cat([x[:3], exp.x]), torch.cat([y[:3], exp.y]))
    assert worst.sort().values.tolist() != [0, 1, 2]
    assert not cl.tree.equal(expected, others, 1e-3, 1e-3)


def test_a_virtual_step_of_length_zero_differs():
    agent = MIR.update(MIR.init(cl.key(0)), BENCH.train[0])
    none = cl.tree.set(agent, {"virtual_lr": 0.0})
    a, b = (MIR.update(state, BENCH.train[1]).model.params for state in (agent, none))
    assert not cl.tree.equal(a, b, 1e-4, 1e-4)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: cl.strategies.gss(MODEL, SGD, capacity=5, replay_size=2), ValueError, "subset_size: .* the capacity, 5, got 10"),
        (lambda: cl.strategies.gss(MODEL, SGD, capacity=5, replay_size=2, subset_size=True), TypeError, "subset_size"),
        (lambda: cl.strategies.gss(MODEL, SGD, capacity=50, replay_size=0), ValueError, "replay_size: "),
        (lambda: cl.strategies.mir(MODEL, SGD, capacity=50, replay_size=9, candidates=8), ValueError, "candidates: .* 9 .* got 8"),
        (lambda: cl.strategies.mir(MODEL, SGD, capacity=7, replay_size=2, candidates=8), ValueError, "candidates: .* 7, got 8"),
        (lambda: cl.strategies.mir(MODEL, SGD, capacity=50, replay_size=0), ValueError, "replay_size"),
        (lambda: cl.strategies.mir(MODEL, SGD, capacity=50, replay_size=5, virtual_lr=-1.0), ValueError, "virtual_lr"),
        (lambda: cl.strategies.mir(MODEL, SGD, capacity=50, replay_size=5, virtual_lr=True), TypeError, "virtual_lr"),
        (lambda: cl.strategies.gdumb(MODEL, SGD, capacity=0), ValueError, "capacity"),
        (lambda: cl.strategies.gdumb(MODEL, SGD, capacity=5, batch_size=0), ValueError, "batch_size"),
    ],
)
def test_errors_name_the_argument(make, error, match):
    with pytest.raises(error, match=match):
        make()

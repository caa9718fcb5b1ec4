"""SCR beside the paper's loop, its classifier by hand, and what an evaluation computes once."""

from __future__ import annotations

import dataclasses

import pytest
import registry
import torch
import torch.nn.functional as F

import cl_func as cl
from cl_func import losses, models, random, strategies
from cl_func.models.projected import unprojected


def still_net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))


STILL = models.augmented(
    models.from_module(still_net, n_classes=4, input_shape=(1, 2, 3), last_layer="3"), registry.VIEWS
)  # nothing but the views is drawn
BENCH = cl.streams.split_online(registry.BENCH, experience_size=5)


def scr(model, lr=0.1, **arguments):
    return strategies.scr(
        model, cl.optim.sgd(lr), **{"capacity": 8, "replay_size": 4, "projection_size": 5, "temperature": 0.3, **arguments}
    )


def test_as_the_paper_writes_it():
    """Algorithm 1 on an online stream: draw, two views of all rows, one step, then the reservoir."""
    strategy = scr(STILL)
    state = strategy.init(cl.key(4))
    plain = cl.models.split_augment(models.projected(STILL, 5))[0]
    params, buffers, key, memory = dict(state.model.params), dict(state.model.buffers), state.key, state.replay
    for exp in BENCH.train[:6]:
        state = strategy.update(state, exp)
        key, draw_key = random.split(key)
        rows, drawn = cl.memory.reservoir.draw(memory, draw_key, 4)
        x = torch.cat([rows["x"][drawn], exp.x[exp.valid].reshape(-1, 1, 2, 3)])
        y = torch.cat([rows["y"][drawn], exp.y[exp.valid]])
        key, view_key = random.split(key)
        everything = torch.cat([rows["x"], exp.x.reshape(-1, 1, 2, 3)])
        kept = torch.cat([drawn, exp.valid])
        views = [x, registry.VIEWS(view_key, everything)[kept]]
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        z = [F.normalize(plain.apply(leaves, buffers, view)[0], dim=1) for view in views]  # no layer trains differently
        terms = []
        for a in range(2):
            for i in range(len(y)):
                others = [(b, j) for b in range(2) for j in range(len(y)) if (b, j) != (a, i)]
                total = sum(torch.exp(z[a][i] @ z[b][j] / 0.3) for b, j in others)
                own = [torch.log(torch.exp(z[a][i] @ z[b][j] / 0.3) / total) for b, j in others if y[j] == y[i]]
                terms.append(-sum(own) / len(own))
        grads = torch.autograd.grad(sum(terms) / len(terms), list(leaves.values()), allow_unused=True)
        params = {
            name: value if grad is None else value - 0.1 * grad for (name, value), grad in zip(params.items(), grads, strict=True)
        }
        buffers = state.model.buffers
        key, insert_key = random.split(key)
        memory = cl.memory.reservoir.add(memory, insert_key, cl.memory.fields(None, exp), exp.valid)
        for name, value in params.items():
            torch.testing.assert_close(state.model.params[name], value, rtol=1e-4, atol=1e-5)
        assert torch.equal(state.key, key)
        assert torch.equal(state.replay.data["x"], memory.data["x"])


def test_a_row_has_the_class_with_the_nearest_mean():
    strategy = scr(registry.MODEL)
    state = cl.fold(strategy.update, strategy.init(cl.key(0)), BENCH.train[:6])
    test = registry.BENCH.test[0]
    net = registry.MODEL.init(cl.key(0)).replace(
        params={name: state.model.params[name] for name in registry.MODEL.init(cl.key(0)).params}
    )
    held = state.replay
    f = F.normalize(models.features(registry.MODEL, net, held.data["x"]), dim=1)[held.occupied]
    y = held.data["y"][held.occupied]
    x = F.normalize(models.features(registry.MODEL, net, test.x), dim=1)
    logits = strategy.model(state, test)
    for c in range(4):
        if (y == c).any():
            mean = F.normalize(f[y == c].mean(0), dim=0)
            torch.testing.assert_close(logits[:, c], -(x - mean).square().sum(1), rtol=1e-4, atol=1e-5)
        else:
            assert (logits[:, c] < -1e8).all()
    assert len(set(y.tolist())) in (2, 3)
    found = cl.evaluate(strategy.model, registry.BENCH.test, batch_size=3)(state)
    for i, exp in enumerate(registry.BENCH.test):
        hits = (strategy.model(state, exp).argmax(1) == exp.y).float()
        assert float(found["accuracy"][i]) == pytest.approx(float(hits.mean()))


def test_an_evaluation_computes_the_means_once():
    strategy = scr(registry.MODEL)
    state = cl.fold(strategy.update, strategy.init(cl.key(0)), BENCH.train[:3])
    calls = []

    def prepare(agent):
        calls.append(1)
        return strategy.model.prepare(agent)

    probe = cl.evaluate(dataclasses.replace(strategy.model, prepare=prepare), registry.BENCH.test, batch_size=2)
    expected = cl.evaluate(strategy.model, registry.BENCH.test, batch_size=2)(state)
    cl.testing.assert_equal(probe(state), expected, "once")
    assert len(calls) == 1
    lanes = cl.tree.stack([state, strategy.update(state, BENCH.train[3])])
    lane_probe = cl.evaluate(strategy.model, registry.BENCH.test)
    both = cl.vmap(lane_probe)(lanes)
    for i, lane in enumerate(cl.tree.unstack(lanes)):
        cl.testing.assert_equal(cl.tree.map(lambda leaf, i=i: leaf[i], both), lane_probe(lane), "lanes", atol=1e-6)


def test_rows_of_a_class_come_together():
    """What it is for, on rows that it was not trained on."""
    strategy = scr(registry.MODEL, lr=0.5, capacity=20, replay_size=10)
    start = strategy.init(cl.key(1))
    end = cl.fold(strategy.update, start, [exp for _ in range(10) for exp in BENCH.train])

    def loss(state):
        exp = registry.BENCH.test[1]
        z = models.features(registry.MODEL, unprojected(state.model), exp.x)
        return float(losses.contrast(z, exp.y, exp.valid, 0.3))

    assert loss(end) < loss(start)


def test_iterations_of_one_minibatch_are_steps_before_the_insertion():
    strategy = scr(registry.MODEL, iterations=3)
    state = strategy.update(strategy.init(cl.key(0)), BENCH.train[0])
    assert int(state.replay.seen) == 5
    single = scr(registry.MODEL)
    assert not torch.equal(
        state.model.params["0.weight"], single.update(single.init(cl.key(0)), BENCH.train[0]).model.params["0.weight"]
    )

"""RAR: the perturbation by hand, its target by a loop, its bounds, a whole step written out, and ER where nothing is perturbed."""

from __future__ import annotations

import pytest
import registry
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import cl_func as cl
from cl_func import memory, models, random, strategies
from cl_func.strategies.rar import nearest_other_class, perturbed

MODEL, SGD = registry.MODEL, registry.SGD
STORE = {"capacity": 9, "replay_size": 4}
BENCH = cl.streams.split_online(registry.BENCH, experience_size=5)
NET = MODEL.init(cl.key(3))
SMOOTH = models.mlp(6, hidden=(8,), n_classes=4, activation="tanh")


def rows_of(exp):
    return memory.fields(None, exp)


def moved(model, net, rows, target, epsilon, steps=2, decay=1.0, moves=None, bounds=None):
    every = torch.ones(len(target)) > 0
    scalars = (torch.tensor(epsilon), torch.tensor(decay))
    return perturbed(model, net, rows, target, every if moves is None else moves, *scalars, steps, bounds)


def losses_to(model, net, x, target):
    return F.cross_entropy(model.apply(net.params, net.buffers, x)[0], target, reduction="none")


def test_on_a_linear_model_by_hand():
    """loss(x, t) has the gradient W'(p - e_t); of one step only the signs remain."""
    model = models.mlp(6, hidden=(), n_classes=4)
    net = model.init(cl.key(1))
    weight, bias = net.params["0.weight"], net.params["0.bias"]
    rows = rows_of(BENCH.train[0])
    target = torch.tensor([2, 3, 3, 2, 0])
    p = F.linear(rows["x"], weight, bias).softmax(1)
    first = (p - F.one_hot(target, 4)) @ weight
    torch.testing.assert_close(moved(model, net, rows, target, 0.25, steps=1), rows["x"] - 0.25 * first.sign())

    g = first / first.abs().sum(1, keepdim=True)
    x = rows["x"] - 0.05 * g.sign()
    second = (F.linear(x, weight, bias).softmax(1) - F.one_hot(target, 4)) @ weight
    g = 0.5 * g + second / second.abs().sum(1, keepdim=True)
    torch.testing.assert_close(moved(model, net, rows, target, 0.1, steps=2, decay=0.5), x - 0.05 * g.sign())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), epsilon=st.sampled_from([1e-4, 0.03, 0.5]), steps=st.integers(1, 4))
def test_rows_move_towards_their_targets_and_no_further_than_epsilon(seed, epsilon, steps):
    net = cl.tree.map(torch.Tensor.double, SMOOTH.init(cl.key(seed)))
    x = random.normal(cl.key(seed), (7, 6), torch.float64)
    rows = {"x": x, "y": torch.zeros(7, dtype=torch.int64), "task": torch.zeros(7, dtype=torch.int64)}
    target = random.randint(cl.key(seed + 100), 7, 0, 4)
    moves = torch.arange(7) != 3
    after = moved(SMOOTH, net, rows, target, epsilon, steps, moves=moves)
    assert float((after - x).abs().max()) <= epsilon * (1 + 1e-4)
    assert torch.equal(after[3], x[3])
    if epsilon < 0.01:  # a small move against the gradient lowers the loss
        before, now = losses_to(SMOOTH, net, x, target), losses_to(SMOOTH, net, after, target)
        assert bool((now[moves] < before[moves]).all())
    inside = moved(SMOOTH, net, rows, target, epsilon, steps, bounds=(-0.5, 0.5))
    assert -0.5 <= float(inside.min()) <= float(inside.max()) <= 0.5


def test_each_row_is_perturbed_by_itself():
    rows, target = rows_of(registry.BENCH.train[0]), registry.BENCH.train[0].y.flip(0)
    whole = moved(registry.NORMED, net := registry.NORMED.init(cl.key(0)), rows, target, 0.1)
    for i in (0, 5):
        alone = moved(registry.NORMED, net, cl.tree.map(lambda leaf, i=i: leaf[i : i + 1], rows), target[i : i + 1], 0.1)
        torch.testing.assert_close(whole[i : i + 1], alone)


def test_the_nearest_row_of_another_class():
    exp = registry.BENCH.train[0]
    exp = exp.take(torch.tensor([0, 7, 1, 8, 2, 3]), torch.tensor([True, True, True, False, True, True]))
    rows = {"x": random.normal(cl.key(5), (6, 6)), "y": torch.tensor([0, 1, 2, 3, 0, 1]), "task": torch.zeros(6, dtype=torch.int64)}
    target, found = nearest_other_class(MODEL, NET, rows, exp)
    assert found.all()
    here, there = models.features(MODEL, NET, exp.x), models.features(MODEL, NET, rows["x"])
    for j in range(6):
        able = [i for i in range(6) if exp.valid[i] and exp.y[i] != rows["y"][j]]
        nearest = min(able, key=lambda i: float((there[j] - here[i]).norm()))
        assert int(target[j]) == int(exp.y[nearest])
    one_class = exp.take(exp.rows[[0, 2]], exp.valid[[0, 2]])
    assert nearest_other_class(MODEL, NET, rows, one_class)[1].tolist() == [int(y) != int(one_class.y[0]) for y in rows["y"]]


def test_a_step_written_out():
    strategy = strategies.rar(MODEL, cl.optim.sgd(0.1), **STORE, epsilon=0.2, beta=0.3, decay=0.9, virtual_lr=0.5)
    agent = cl.fold(strategy.update, strategy.init(cl.key(2)), BENCH.train[:4])
    exp = BENCH.train[4]
    valid = exp.valid
    _, draw_key = random.split(agent.key)
    rows, drawn = memory.reservoir.draw(agent.replay, draw_key, 4)
    assert drawn.all()

    def net(params, x):
        return F.linear(torch.relu(F.linear(x, params["0.weight"], params["0.bias"])), params["2.weight"], params["2.bias"])

    def sgd(params, lr, loss):
        leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
        grads = torch.autograd.grad(loss(leaves), list(leaves.values()))
        return {name: p.detach() - lr * g for (name, p), g in zip(leaves.items(), grads, strict=True)}

    v = sgd(agent.model.params, 0.5, lambda p: F.cross_entropy(net(p, exp.x[valid]), exp.y[valid]))

    def hidden(x):
        return torch.relu(F.linear(x, v["0.weight"], v["0.bias"]))

    x_t = []
    for i in range(4):
        others = [j for j in range(5) if valid[j] and exp.y[j] != rows["y"][i]]
        t = exp.y[min(others, key=lambda j: float((hidden(rows["x"][i]) - hidden(exp.x[j])).norm()))]
        x, g = rows["x"][i].clone(), torch.zeros(6)
        for _ in range(2):
            leaf = x.clone().requires_grad_()
            (d,) = torch.autograd.grad(F.cross_entropy(net(v, leaf), t), leaf)
            g = 0.9 * g + d / d.abs().sum()
            x = x - 0.1 * g.sign()
        x_t.append(x)
    x_t = torch.stack(x_t)

    def loss(p):
        own = F.cross_entropy(net(p, exp.x[valid]), exp.y[valid], reduction="sum")
        clean, pushed = (F.cross_entropy(net(p, x), rows["y"], reduction="sum") for x in (rows["x"], x_t))
        return (own + 0.7 * clean + 0.3 * pushed) / (int(valid.sum()) + 4)

    after = strategy.update(agent, exp)
    torch.testing.assert_close(after.model.params, sgd(agent.model.params, 0.1, loss))
    assert int(after.replay.seen) == int(agent.replay.seen) + int(valid.sum())


@pytest.mark.parametrize("changes", [{"epsilon": 0.0}, {"beta": 0.0}])
def test_it_is_er_where_nothing_is_perturbed(changes):
    ends = [
        cl.fold(strategy.update, strategy.init(cl.key(0)), BENCH.train)
        for strategy in (strategies.rar(MODEL, SGD, **STORE, **changes), strategies.er(MODEL, SGD, **STORE))
    ]
    torch.testing.assert_close(ends[0].model.params, ends[1].model.params, rtol=1e-4, atol=1e-6)
    assert torch.equal(ends[0].replay.data["x"], ends[1].replay.data["x"])
    other = strategies.rar(MODEL, SGD, **STORE, epsilon=0.3, beta=0.5)
    pushed = cl.fold(other.update, other.init(cl.key(0)), BENCH.train).model.params["0.weight"]
    assert not torch.allclose(pushed, ends[1].model.params["0.weight"], atol=1e-3)


def test_in_a_multi_head_model_rows_move_to_classes_of_other_heads():
    agent_of = strategies.rar(registry.HEADS, SGD, **STORE, epsilon=0.1)
    state = cl.fold(agent_of.update, agent_of.init(cl.key(0)), cl.streams.split_online(TASKS, experience_size=5).train)
    assert all(p.isfinite().all() for p in state.model.params.values())
    rows = rows_of(registry.BENCH.train[0])
    target = torch.full((len(rows["y"]),), 3)
    assert not torch.equal(moved(registry.HEADS, state.model, rows, target, 0.1), rows["x"])


TASKS = cl.streams.task_incremental(registry.BENCH.train[0].source, registry.BENCH.test[0].source, 2, class_order=[0, 2, 1, 3])


def test_tokens_are_refused():
    model = models.from_module(token_net, n_classes=4, input_shape=(3,), last_layer="2", input_dtype=torch.int64)
    with pytest.raises(ValueError, match="model: it takes tokens"):
        strategies.rar(model, SGD, **STORE)


def token_net():
    return torch.nn.Sequential(torch.nn.Embedding(9, 2), torch.nn.Flatten(), torch.nn.Linear(6, 4))

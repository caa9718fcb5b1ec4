"""A run is differentiable: its outcome has the derivative, with respect to hyperparameters, that finite differences have."""

from __future__ import annotations

import pytest
import torch
from registry import STRATEGIES
from torch import Tensor

import cl_func as cl

SOLVERS = ("strategies.bic", "strategies.fecam", "strategies.gem", "strategies.ranpac")  # of their own, without a derivative
STEP = 1e-6


def in_double(tree):
    return cl.tree.map(lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, tree)


def hyperparameters(case, state):
    """The floating numbers of a state, where the outcome is smooth in them."""
    adam = case.name in ("strategies.joint", "strategies.gdumb")
    return {
        path: leaf
        for path, leaf in cl.tree.items(state)
        if leaf.is_floating_point()
        and not leaf.ndim
        and not path.startswith(("model.", "cbp."))  # continual backprop counts until a whole unit is due
        and not (adam and path.endswith("weight_decay"))  # a gradient of 0 has a step of 0, any other one about lr
    }


@pytest.mark.parametrize("case", STRATEGIES, ids=[f"{i}-{case.name}-{case.target}" for i, case in enumerate(STRATEGIES)])
def test_the_derivative_of_a_run_is_that_of_finite_differences(case):
    """Or there is a clear error. Where a tensor was detached, or a solver passes no tangent, it was another number, or 0."""
    strategy = case.make()
    start = in_double(strategy.init(cl.key(0)))
    train = [cl.tree.replace(exp, source=in_double(exp.source)) for exp in case.bench.train[:3]]
    probe = cl.evaluate(strategy.model, train)
    at = hyperparameters(case, start)

    def outcome(shift: Tensor) -> Tensor:
        state = cl.tree.set(start, {path: leaf + shift * (1 + leaf) for path, leaf in at.items()})
        return probe(cl.fold(strategy.update, state, train))["loss"].mean()

    def derivative() -> Tensor:
        return torch.func.jvp(outcome, (torch.zeros((), dtype=torch.float64),), (torch.ones((), dtype=torch.float64),))[1]

    if case.name in SOLVERS and at:
        with pytest.raises(NotImplementedError, match=r"cl_func\..* cannot be differentiated, but what it is given depends on"):
            derivative()
        return
    expected = (outcome(torch.tensor(STEP)) - outcome(torch.tensor(-STEP))) / (2 * STEP)
    torch.testing.assert_close(derivative(), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("transform", [lambda update: update, cl.vmap], ids=["eager", "vmapped"])
def test_reverse_mode_gives_the_same(transform):
    bench, net = cl.testing.small_benchmark(), cl.models.mlp(6, hidden=(8,), n_classes=4, norm="batch")
    strategy = cl.strategies.er(net, cl.optim.adam(0.01, eps=1e-3), capacity=6, replay_size=4, batch_size=5)
    start, probe = strategy.init(cl.key(0)), cl.evaluate(net, bench.train[:2])
    lanes = transform is cl.vmap

    def outcome(lr: Tensor) -> Tensor:
        state = cl.tree.set(start, {"opt.lr": lr})
        end = cl.fold(transform(strategy.update), cl.tree.stack([state]) if lanes else state, bench.train[:2])
        return probe(cl.tree.unstack(end)[0] if lanes else end)["loss"].mean()

    lr = torch.tensor(0.01)
    expected = torch.func.jvp(outcome, (lr,), (torch.ones(()),))[1]
    assert expected.abs() > 1e-3
    torch.testing.assert_close(torch.func.grad(outcome)(lr), expected, rtol=1e-4, atol=1e-5)
    outcome(lr.requires_grad_()).backward()
    torch.testing.assert_close(lr.grad, expected, rtol=1e-4, atol=1e-5)


def test_a_compiled_run_is_differentiated_eagerly(monkeypatch):
    """Its program, made before, would have no derivative: backward failed, and under jvp torch's kernels met wrapped tensors."""
    bench, net = cl.testing.small_benchmark(), cl.models.mlp(6, hidden=(8,), n_classes=4)
    strategy = cl.strategies.naive(net, cl.optim.sgd(0.1))
    start, compiled = strategy.init(cl.key(0)), cl.compile(strategy.update)
    monkeypatch.setattr("cl_func.transforms._WARNED", set())

    def outcome(update, lr):
        return update(cl.tree.set(start, {"opt.lr": lr}), bench.train[0]).model.params["0.weight"].square().sum()

    lr = torch.tensor(0.1)
    outcome(compiled, lr)
    expected = torch.func.grad(lambda lr: outcome(strategy.update, lr))(lr)
    with pytest.warns(UserWarning, match=r"compiled program has no derivatives.* runs eagerly, with the same results"):
        value, slope = torch.func.jvp(lambda lr: outcome(compiled, lr), (lr,), (torch.ones(()),))
    torch.testing.assert_close((value, slope), (outcome(compiled, lr), expected))
    tracked = lr.clone().requires_grad_()
    outcome(compiled, tracked).backward()
    torch.testing.assert_close(tracked.grad, expected)
    with torch.no_grad():
        torch.testing.assert_close(outcome(compiled, tracked), value)
    lanes = torch.func.vmap(lambda lr: outcome(compiled, lr))(torch.stack([lr, 2 * lr]))
    torch.testing.assert_close(lanes[0], value)


def test_what_a_run_returns_holds_no_graph_of_its_gradients():
    """What a loss sees as a constant must not keep the graph of the step before alive."""
    net = cl.models.mlp(3, hidden=(4,), n_classes=2, norm="batch")
    state = net.init(cl.key(0))
    params = {name: value.requires_grad_() for name, value in state.params.items()}
    _, buffers = net.apply(params, state.buffers, torch.rand(5, 3), train=True)
    assert not any(value.requires_grad for value in buffers.values())

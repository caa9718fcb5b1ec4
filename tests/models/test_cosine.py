"""The cosine head: its formula by a loop, what it is blind to, and the laws through it."""

from __future__ import annotations

import pytest
import registry
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import cl_func as cl
from cl_func import random, testing
from cl_func.models import CosineLinear, from_module, mlp, multi_head
from cl_func.models.cosine import cosine_logits

COSINE = mlp(6, hidden=(8,), n_classes=4, head="cosine")


@settings(deadline=None, max_examples=30)
@given(key=testing.keys(), n=st.integers(1, 4), scale=st.floats(0.1, 50))
def test_by_a_loop(key, n, scale):
    h, w = (random.normal(k, (m, 3), torch.float64) for k, m in zip(random.split(key), (n, 5), strict=True))
    logits = cosine_logits(h, w, torch.tensor(scale, dtype=torch.float64))
    for i in range(n):
        for c in range(5):
            expected = scale * float(h[i] @ w[c]) / (float(h[i] @ h[i]) * float(w[c] @ w[c])) ** 0.5
            assert float(logits[i, c]) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert (logits.abs() <= scale * (1 + 1e-9)).all()
    torch.testing.assert_close(cosine_logits(3 * h, w * torch.arange(1, 6)[:, None], torch.tensor(scale)).double(), logits)


def test_mlp_with_a_cosine_head_is_the_module():
    """Names and first weights are those of the module; no ReLU before the head."""
    key = random.key(5)
    model = mlp(12, hidden=(7, 5), n_classes=3, head="cosine")
    module = from_module(
        lambda: nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 5), nn.Identity(), CosineLinear(5, 3)), n_classes=3
    )
    state = model.init(key)
    assert cl.tree.equal(state, module.init(key))
    assert list(state.params) == ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.scale"]
    assert state.params["4.scale"] == 10
    x = random.normal(key, (4, 12))
    torch.testing.assert_close(model.apply(state.params, {}, x)[0], module.apply(state.params, {}, x)[0])
    linear = mlp(12, hidden=(7, 5), n_classes=3).init(key)
    for name in ("0.weight", "2.bias", "4.weight"):
        assert torch.equal(linear.params[name], state.params[name])


def test_without_hidden_layers_the_inputs_are_the_features():
    model = mlp(3, hidden=(), n_classes=2, head="cosine")
    state = model.init(random.key(0))
    logits, _ = model.apply(state.params, {}, torch.eye(3))
    torch.testing.assert_close(logits, 10 * torch.nn.functional.normalize(state.params["0.weight"]).T)


def test_a_row_of_zeros_has_finite_gradients():
    params = COSINE.init(random.key(0)).params
    params = {**params, "0.bias": torch.zeros(8), "2.weight": params["2.weight"] * torch.tensor([0.0, 1, 1, 1])[:, None]}
    grads = torch.func.grad(lambda p: COSINE.apply(p, {}, torch.zeros(2, 6))[0].logsumexp(-1).sum())(params)
    assert all(g.isfinite().all() for g in grads.values())


def test_the_laws_hold_with_it():
    strategy = cl.strategies.der_pp(COSINE, cl.optim.adam(1e-3), capacity=6, replay_size=4, batch_size=5)
    testing.check_strategy(strategy, registry.BENCH)
    masked = multi_head(COSINE, cl.models.class_masks(registry.BENCH.train))
    testing.check_strategy(cl.strategies.naive(masked, registry.SGD), registry.BENCH)


def test_the_scale_is_learnt_and_a_leaf():
    strategy = cl.strategies.naive(COSINE, registry.SGD, batch_size=5)
    start = cl.tree.set(strategy.init(cl.key(0)), {"model.params.2.scale": 3.0})
    after = strategy.update(start, registry.BENCH.train[0])
    assert float(after.model.params["2.scale"]) != 3.0


def test_it_learns():
    bench = cl.streams.split_by_class(*cl.data.digits(), n_experiences=1)
    model = mlp(64, hidden=(64,), n_classes=10, head="cosine")
    strategy = cl.strategies.naive(model, cl.optim.sgd(0.1), batch_size=32, epochs=2)
    state = cl.fold(strategy.update, strategy.init(cl.key(0)), bench.train)
    assert cl.evaluate(model, bench.test)(state, None)["accuracy"][0] > 0.9


def test_refuses():
    with pytest.raises(ValueError, match="head: expected 'linear' or 'cosine', got 'cos'"):
        mlp(6, head="cos")
    with pytest.raises(ValueError, match="scale: expected a finite number above 0, got 0"):
        CosineLinear(3, 2, scale=0)
    with pytest.raises(ValueError, match=r"in_features: .* got 0"):
        CosineLinear(0, 2)
    with pytest.raises(TypeError, match="out_features"):
        CosineLinear(3, 2.0)

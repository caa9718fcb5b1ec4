"""UPGD beside the authors' update, written naively, and spectral regularisation beside an SVD."""

import pytest
import torch

import cl_func as cl
from cl_func.extending import with_slots
from cl_func.plasticity.shrink_and_perturb import normal_like
from cl_func.plasticity.spectral import power_iteration

MODEL = cl.models.mlp(5, hidden=(12, 7), n_classes=3)
CE = cl.losses.cross_entropy(MODEL)


def naive_upgd(net, key, data, *, lr, weight_decay, sigma, decay, scale, protect):
    """`FirstOrderGlobalUPGD` and `FirstOrderLocalUPGD` of the authors' code, and "global" as in algorithm 1 of the paper."""
    p = {name: value.clone() for name, value in net.params.items()}
    utility = {name: torch.zeros_like(value) for name, value in p.items()}
    for t, (x, y) in enumerate(data, 1):
        leaves = {name: value.detach().requires_grad_() for name, value in p.items()}
        logits, _ = MODEL.apply(leaves, {}, x)
        grads = dict(zip(p, torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y), list(leaves.values())), strict=True))
        key, draw_key = cl.random.split(key)
        noise = normal_like(draw_key, p)
        for name in p:
            utility[name] = decay * utility[name] + (1 - decay) * (-grads[name] * p[name])
        correction = 1 - decay**t
        largest = max(u.max().item() for u in utility.values())
        for name in p:
            u = utility[name] / correction
            if scale == "local":
                s = torch.sigmoid(torch.nn.functional.normalize(u, dim=-1))
            else:
                s = torch.sigmoid(u / (largest / correction if scale == "global" else largest))
            g = (grads[name] + sigma * noise[name]) * (1 - s) if protect else grads[name] + sigma * noise[name] * (1 - s)
            p[name].mul_(1 - lr * weight_decay).add_(g, alpha=-lr)
    return p, utility


@pytest.mark.parametrize(
    ("scale", "protect"), [("global", True), ("global_uncorrected", True), ("local", True), ("global_uncorrected", False)]
)
def test_the_authors_update(scale, protect):
    """Over 1,000 steps for their code with global scaling, over 100 for the others."""
    n = 1000 if (scale, protect) == ("global_uncorrected", True) else 100
    upgd = cl.plasticity.upgd(0.1, 0.99, scale=scale, protect=protect)
    optimizer = cl.optim.sgd(0.05, weight_decay=0.01)
    net = cl.tree.map(torch.Tensor.double, MODEL.init(cl.key(1)))
    agent = with_slots(cl.Agent(key=cl.key(3), model=net, opt=optimizer.init(net.params)), upgd=upgd.init(net))
    x = cl.random.normal(cl.key(2), (n, 2, 5), torch.float64)
    y = ((x * (1 + torch.arange(n) // 100)[:, None, None]).sin().sum(2) + 2).long().clamp(0, 2)
    step = cl.train_step(CE, optimizer, upgd)
    for i in range(n):
        agent = step(agent, cl.experience(cl.Dataset(x[i], y[i], n_classes=3)))
    numbers = {name: cl.tree.get(agent, f"upgd.{name}").double().item() for name in ("sigma", "decay")}
    wanted, utility = naive_upgd(
        net, cl.key(3), zip(x, y, strict=True), lr=0.05, weight_decay=0.01, scale=scale, protect=protect, **numbers
    )
    assert agent.upgd.count.item() == n
    for name, value in wanted.items():
        torch.testing.assert_close(agent.model.params[name], value, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(agent.upgd.utility[name], utility[name], rtol=1e-3, atol=1e-6)


def test_a_step_worked_by_hand():
    """Utilities of 2, -1 and 0 of a largest 2: sigmoids of 1, -1/2 and 0, without noise."""
    upgd = cl.plasticity.upgd(0.0, 0.5)
    net = cl.models.ModelState(params={"w": torch.tensor([1.0, 1.0, 0.0])}, buffers={})
    agent = with_slots(cl.Agent(key=cl.key(0), model=net), upgd=upgd.init(net))
    grads, after = upgd({"w": torch.tensor([-4.0, 2.0, 3.0])}, agent, None)
    fractions = torch.sigmoid(torch.tensor([1.0, -0.5, 0.0]))
    torch.testing.assert_close(grads["w"], torch.tensor([-4.0, 2.0, 3.0]) * (1 - fractions))
    assert after.upgd.utility["w"].tolist() == [2, -1, 0]
    still, _ = upgd({"w": torch.zeros(3)}, agent, None)  # no weight has a utility: no NaN
    assert still["w"].tolist() == [0, 0, 0]


def test_the_spectral_penalty_is_that_of_an_svd():
    spectral = cl.plasticity.spectral(0.3, iterations=20)
    net = cl.models.cnn((1, 8, 8), channels=(3, 4), hidden=6, n_classes=3).init(cl.key(0))
    agent = with_slots(cl.Agent(key=cl.key(0), model=net), spectral=spectral.init(net))
    for _ in range(10):
        value, agent = spectral(net.params, agent, None)
    weights = {name: p.flatten(1) for name, p in net.params.items() if p.ndim > 1}
    assert sorted(agent.spectral.vectors) == sorted(weights) == ["convs.0.weight", "convs.1.weight", "hidden.weight", "out.weight"]
    params = {name: p.clone().requires_grad_() for name, p in net.params.items()}
    exact = 0.3 * sum((torch.linalg.svdvals(params[name].flatten(1))[0] ** 2 - 1) ** 2 for name in weights)
    assert value.item() == pytest.approx(exact.item(), rel=1e-4)
    wanted = torch.autograd.grad(exact, [params[name] for name in weights])
    found = torch.autograd.grad(spectral(params, agent, None)[0], [params[name] for name in weights])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


def test_power_iteration_of_a_diagonal_and_of_zero():
    v = torch.ones(3) / 3**0.5
    value, u, w = power_iteration(torch.diag(torch.tensor([3.0, 1.0, 0.5])), v, 10)
    assert value.item() == pytest.approx(3)
    torch.testing.assert_close(u.abs(), torch.tensor([1.0, 0, 0]), rtol=0, atol=1e-4)
    zero, _, kept = power_iteration(torch.zeros(2, 3), w, 1)
    assert zero.item() == 0
    assert torch.equal(kept, w)


def test_weights_go_to_a_largest_singular_value_of_one():
    spectral = cl.plasticity.spectral(0.05)
    optimizer = cl.optim.sgd(0.5)
    net = MODEL.init(cl.key(0))
    agent = with_slots(cl.Agent(key=cl.key(0), model=net, opt=optimizer.init(net.params)), spectral=spectral.init(net))
    step = cl.train_step(spectral, optimizer)
    for _ in range(300):
        agent = step(agent, None)
    for name in ("0.weight", "2.weight", "4.weight"):
        assert torch.linalg.svdvals(agent.model.params[name])[0].item() == pytest.approx(1, abs=0.01)
    assert cl.tree.equal(agent.model.params["0.bias"], net.params["0.bias"])

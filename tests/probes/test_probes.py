"""Probes of plasticity beside numpy and beside values found by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import registry
import torch
from torch import nn

import cl_func as cl
from cl_func import probes
from cl_func.experiences import pad

KEY = cl.key(3)
EXP = cl.experience(cl.Dataset(cl.random.normal(KEY, (40, 6)), torch.arange(40) % 4))
MODEL = cl.models.mlp(6, hidden=(9, 5), n_classes=4)
AGENT = cl.Agent(key=KEY, model=MODEL.init(KEY), opt=registry.SGD.init(MODEL.init(KEY).params))
LOSS = cl.losses.cross_entropy(MODEL)


def with_hidden(weight: list[list[float]]):
    """An agent whose hidden units of one layer are the ReLU of the inputs [1, 2] and [3, 0] under a weight, and its model."""
    model = cl.models.mlp(2, hidden=(len(weight),), n_classes=2)
    net = model.init(KEY)
    params = {**net.params, "0.weight": torch.tensor(weight), "0.bias": torch.zeros(len(weight))}
    return model, cl.Agent(key=KEY, model=net.replace(params=params))


TWO = cl.experience(cl.Dataset(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([0, 1])))


def test_dormant_units_by_hand():
    """Mean activities 4, 0.2, 0 and 0.6 of a layer: its mean is 1.2, and the scores are 3.33, 0.167, 0 and 0.5."""
    model, agent = with_hidden([[2.0, 0.0], [0.1, 0.0], [-1.0, -1.0], [0.2, 0.2]])
    h = cl.models.activations(model, agent.model, TWO)["0"]
    assert torch.allclose(h.mean(0), torch.tensor([4.0, 0.2, 0.0, 0.6]))
    for threshold, fraction in {0.0: 1 / 4, 0.1: 1 / 4, 0.18: 2 / 4, 0.3: 2 / 4, 0.55: 3 / 4, 4.0: 1.0}.items():
        found = probes.dormant_units(model, TWO, threshold=threshold)(agent)
        assert found["dormant_units"].item() == found["dormant_units_by_layer"].item() == fraction, threshold
    assert probes.dead_units(model, TWO)(agent)["dead_units"].item() == 1 / 4
    dead = agent.replace(model=agent.model.replace(params={**agent.model.params, "0.weight": -torch.ones(4, 2)}))
    assert probes.dormant_units(model, TWO)(dead)["dormant_units"].item() == 1.0  # although no unit is below the mean


def test_layers_count_by_their_units():
    model = cl.models.mlp(6, hidden=(9, 5), n_classes=4)
    params = {**AGENT.model.params, "2.weight": torch.zeros(5, 9), "2.bias": -torch.ones(5)}
    found = probes.dead_units(model, EXP)(AGENT.replace(model=AGENT.model.replace(params=params)))
    assert found["dead_units_by_layer"].tolist() == [0.0, 1.0]
    assert math.isclose(found["dead_units"].item(), 5 / 14, rel_tol=1e-6)


def test_ranks_beside_numpy():
    hidden = cl.models.activations(MODEL, AGENT.model, EXP)
    expected: dict[str, list[float]] = {"effective_rank": [], "stable_rank": []}
    for h in hidden.values():
        s = np.linalg.svd(h.double().numpy(), compute_uv=False)
        p = s[s > 0] / s.sum()
        expected["effective_rank"].append(np.exp(-(p * np.log(p)).sum()))
        expected["stable_rank"].append(np.linalg.norm(h.double().numpy(), "fro") ** 2 / np.linalg.norm(h.double().numpy(), 2) ** 2)
    for name, values in expected.items():
        found = getattr(probes, name)(MODEL, EXP)(AGENT)
        assert np.allclose(found[f"{name}_by_layer"].numpy(), values, rtol=1e-5)
        assert found[name] == found[f"{name}_by_layer"][-1]


@pytest.mark.parametrize(("probe", "name"), [(probes.effective_rank, "effective_rank"), (probes.stable_rank, "stable_rank")])
def test_ranks_that_are_known(probe, name):
    """Of k equal singular values both ranks are k, of one 1, of none 0."""
    for weight, rank in {((1.0, 0.0), (0.0, 1.5)): 2, ((1.0, 1.0), (2.0, 2.0)): 1, ((-1.0, -1.0), (-1.0, 0.0)): 0}.items():
        model, agent = with_hidden([list(row) for row in weight])
        rows = cl.experience(cl.Dataset(torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])))
        assert math.isclose(probe(model, rows)(agent)[name].item(), rank, abs_tol=1e-5)


def test_norms():
    weights = np.concatenate([p.numpy().ravel() for p in AGENT.model.params.values()])
    found = probes.weight_norm()(AGENT, None)
    assert math.isclose(found["weight_norm"].item(), np.linalg.norm(weights), rel_tol=1e-5)
    assert math.isclose(found["weight_magnitude"].item(), np.abs(weights).mean(), rel_tol=1e-5)
    net = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 4))
    net.load_state_dict(AGENT.model.params)
    nn.functional.cross_entropy(net(EXP.x), EXP.y).backward()
    expected = torch.cat([p.grad.flatten() for p in net.parameters()]).norm()
    assert torch.allclose(probes.gradient_norm(LOSS, EXP)(AGENT)["gradient_norm"], expected)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_top_eigenvalue_beside_the_whole_hessian(activation):
    model = cl.models.mlp(6, hidden=(3,), n_classes=4, activation=activation)
    agent = cl.Agent(key=KEY, model=model.init(KEY))
    loss, leaves = cl.losses.cross_entropy(model), list(agent.model.params.values())
    sizes = [leaf.numel() for leaf in leaves]

    def value(flat):
        parts = [part.reshape(leaf.shape) for part, leaf in zip(flat.split(sizes), leaves, strict=True)]
        return loss(dict(zip(agent.model.params, parts, strict=True)), agent, EXP)[0]

    flat = torch.cat([leaf.flatten() for leaf in leaves])
    eigenvalues = np.linalg.eigvalsh(torch.autograd.functional.hessian(value, flat).double().numpy())
    expected = eigenvalues[np.abs(eigenvalues).argmax()]
    found = probes.hessian_top_eigenvalue(loss, EXP, iterations=200)(agent)
    assert math.isclose(found["hessian_top_eigenvalue"].item(), expected, rel_tol=1e-3)
    for iterations in (1, 5):
        found = probes.hessian_top_eigenvalue(loss, EXP, iterations=iterations)(agent)
        nearest = np.abs(eigenvalues - found["hessian_top_eigenvalue"].item()).min()
        assert nearest <= found["hessian_residual"].item() * (1 + 1e-5)


def test_the_top_eigenvalue_has_its_sign():
    """Of w -> -3/2 w_0^2 + w_1^2 / 2 the eigenvalue of the largest size is -3."""
    scale = torch.tensor([-3.0, 1.0])
    agent = cl.Agent(key=KEY, model=cl.models.ModelState(params={"w": torch.tensor([0.3, 0.4])}, buffers={}))

    def loss(params, state, exp):
        return (scale * params["w"].square()).sum() / 2, state

    found = probes.hessian_top_eigenvalue(loss, EXP, iterations=50)(agent)
    assert math.isclose(found["hessian_top_eigenvalue"].item(), -3.0, rel_tol=1e-5)
    assert found["hessian_residual"].item() < 1e-4

    def flat(params, state, exp):
        return params["w"].sum(), state

    assert probes.hessian_top_eigenvalue(flat, EXP)(agent)["hessian_top_eigenvalue"].item() == 0.0


def all_of(exp, n=None):
    return probes.join(
        probes.dormant_units(MODEL, exp, threshold=0.5, n=n),
        probes.dead_units(MODEL, exp, n=n),
        probes.effective_rank(MODEL, exp, n=n),
        probes.stable_rank(MODEL, exp, n=n),
        probes.weight_norm(),
        probes.gradient_norm(LOSS, exp, n=n),
        probes.hessian_top_eigenvalue(LOSS, exp, n=n, iterations=3),
    )


def test_rows_are_those_of_the_probe_or_the_last_ones():
    first = EXP.take(EXP.rows[:7], EXP.valid[:7])
    expected = all_of(first)(AGENT)
    for found in (all_of(None)(AGENT, first), all_of(EXP, 7)(AGENT), all_of(None, 7)(AGENT, EXP), all_of(first)(AGENT, EXP)):
        cl.testing.assert_equal(found, expected, "rows", 1e-5, 1e-6)
    with pytest.raises(ValueError, match=r"exp: the probe has no rows to measure on"):
        all_of(None)(AGENT)


def test_padding_changes_nothing():
    short = EXP.take(EXP.rows[:10], EXP.valid[:10])
    cl.testing.assert_equal(all_of(None)(AGENT, pad(short, 16)), all_of(None)(AGENT, short), "padding", 1e-4, 1e-5)


def test_in_a_scan_and_a_sweep():
    bench = cl.testing.small_benchmark()
    model = cl.models.mlp(6, hidden=(8,), n_classes=4)
    naive = cl.strategies.naive(model, cl.optim.sgd(0.1), batch_size=5)
    probe = probes.join(
        cl.evaluate(model, bench.test),
        probes.dormant_units(model),
        probes.effective_rank(model, bench.test[0]),
        probes.gradient_norm(cl.losses.cross_entropy(model), n=8),
    )
    _, history = cl.scan(naive.update, naive.init(cl.key(0)), bench.train, probe)
    assert history["dormant_units_by_layer"].shape == (len(bench.train), 1)
    assert history["accuracy"].shape == (len(bench.train), len(bench.test))
    runs = cl.sweep(naive, bench, seeds=3, probe=probe, compile=False, progress=False)
    single = cl.sweep(naive, bench, seeds=3, probe=probe, compile=False, progress=False, lanes=1)
    for name in history:
        assert torch.allclose(runs.history[name], single.history[name], rtol=1e-4, atol=1e-5)


def test_a_loss_that_draws_leaves_the_keys_alone():
    case = next(case for case in registry.LOSSES if case.name == "losses.with_replay")
    probe = probes.join(probes.gradient_norm(case.make()), probes.hessian_top_eigenvalue(case.make(), iterations=1))
    cl.testing.check_probe(probe, case.state(), case.bench.train[0])


def test_probes_of_one_measure_stand_under_names():
    """Class- and task-incremental accuracy of one run, as tables of the literature have both."""
    bench = registry.BENCH
    both = {"class_il": cl.evaluate(MODEL, bench.test), "task_il": cl.evaluate(MODEL, bench.test, mask="experience")}
    probe = probes.join(probes.weight_norm(), **both)
    found = probe(AGENT)
    assert found.keys() == {"weight_norm", "weight_magnitude", "class_il", "task_il"}
    assert cl.tree.equal({name: found[name] for name in both}, {name: one(AGENT) for name, one in both.items()})
    assert cl.tree.equal(cl.vmap(probe)(cl.tree.stack([AGENT, AGENT]))["task_il"]["accuracy"][1], found["task_il"]["accuracy"])
    naive = cl.strategies.naive(MODEL, registry.SGD, batch_size=5)
    runs = cl.sweep(naive, bench, seeds=2, probe=probe, progress=False, compile=False)
    assert {"class_il.accuracy", "task_il.accuracy", "weight_norm"} <= runs.history.keys()
    state, _ = cl.scan(naive.update, naive.init(cl.key(1)), bench.train)
    assert torch.equal(torch.as_tensor(runs["task_il.accuracy"])[1, -1], both["task_il"](state)["accuracy"])
    assert "class_il" in runs.table()
    assert "task_il" in runs.table()
    assert torch.equal(probes.join(key=lambda state, exp: state.key)(AGENT)["key"], AGENT.key)
    with pytest.raises(ValueError, match=r"named: expected names without a dot, such as class_il=, got 'task.il'"):
        probes.join(**{"task.il": probes.weight_norm()})
    with pytest.raises(TypeError, match=r"task_il: expected a Probe"):
        probes.join(task_il=3)
    with pytest.raises(ValueError, match=r"probes: weight_norm is measured by two of them"):
        probes.join(probes.weight_norm(), weight_norm=probes.weight_norm())(AGENT)


def test_probes_that_cannot_be_joined():
    with pytest.raises(ValueError, match=r"probes: weight_magnitude, weight_norm is measured by two of them"):
        probes.join(probes.weight_norm(), probes.weight_norm())(AGENT)
    with pytest.raises(TypeError, match=r"probes: expected each to return a dict"):
        probes.join(lambda state, exp: state.key)(AGENT)
    with pytest.raises(TypeError, match=r"probes: expected at least one Probe, got none"):
        probes.join()

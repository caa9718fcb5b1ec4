"""`model.fresh` draws from the distribution of `init`, whatever initialisers the factory calls, as a function of its key alone."""

from __future__ import annotations

import dataclasses
import functools
import math
import pickle

import numpy as np
import pytest
import registry
import torch
from scipy import stats
from torch import nn

import cl_func as cl
from cl_func import testing
from cl_func.models import fresh_function, fresh_rows, from_module, mlp, pure
from cl_func.random import draws


class Zoo(nn.Module):
    """A parameter for each way to initialise one."""

    def __init__(self):
        super().__init__()
        self.uniform, self.embedding = nn.Linear(5, 4), nn.Embedding(5, 6, padding_idx=1)
        self.kaiming, self.xavier = nn.Conv2d(2, 3, 3, bias=False), nn.Linear(5, 4, bias=False)
        nn.init.kaiming_normal_(self.kaiming.weight, mode="fan_out")
        nn.init.xavier_uniform_(self.xavier.weight)
        self.wide, self.tall = nn.Linear(5, 3, bias=False), nn.Linear(3, 5, bias=False)
        nn.init.orthogonal_(self.wide.weight)
        nn.init.orthogonal_(self.tall.weight, 2.0)
        self.truncated = nn.Parameter(nn.init.trunc_normal_(torch.empty(4, 4), std=0.02))
        self.scaled = nn.Parameter(torch.randn(1, 7) * 0.02 + 1)
        self.joined = nn.Parameter(torch.cat([torch.zeros(2, 3), torch.rand(2, 3)]))
        self.rows = nn.Parameter(torch.empty(4, 3).normal_(1, 2))
        with torch.no_grad():
            self.rows[1].mul_(10)
            self.rows[:, 2] = 5
        self.turned = nn.Parameter(torch.empty(3, 4).t().uniform_(-2, 3))
        self.erf = nn.Parameter(torch.empty(40).uniform_(-0.95, 0.95).erfinv_().mul_(math.sqrt(2)).clamp_(-1.5, 1.5))
        self.norm, self.constant = nn.BatchNorm1d(4), nn.Parameter(torch.tensor([1.0, 2.0]))
        self.tied = nn.Linear(5, 4)
        self.tied.weight = self.uniform.weight
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
        self.rnn, self.attention = nn.GRU(3, 4), nn.MultiheadAttention(4, 2)
        self.double_ = nn.Parameter(torch.empty(9, dtype=torch.float64).normal_(3.0))


ZOO = pure(Zoo)
COSINE = mlp(6, (8, 5), 4, head="cosine", activation="crelu")
MODELS = {
    "zoo": ZOO,
    "mlp": mlp(6, (8, 5), 4),
    "cosine": COSINE,
    "stack": registry.STACK,
    "odd": registry.ODD,
    "resnet": registry.RESNET,
    "vit": registry.VIT,
}
each_model = pytest.mark.parametrize("name", MODELS)


@each_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_those_of_all_that_is_drawn(name, dtype):
    """Bit for bit, vmapped too; parameters that are not named in `rows` are drawn whole."""
    model = MODELS[name]
    params = {path: p.to(dtype) for path, p in model.init(cl.key(0)).params.items()}
    rows = {path: torch.arange(len(p)).flip(0)[:2] for path, p in params.items() if p.ndim > 1}
    draw = fresh_rows(model)
    whole, some = model.fresh(cl.key(3), params), draw(cl.key(3), params, rows)
    for path, value in whole.items():
        assert torch.equal(some[path], value[rows[path]] if path in rows else value), path
    keys = torch.stack([cl.key(3), cl.key(4)])
    each = {path: torch.stack([chosen, chosen.flip(0)]) for path, chosen in rows.items()}
    lanes = torch.func.vmap(draw, in_dims=(0, None, 0))(keys, params, each)
    for i, key in enumerate(keys):
        wanted = draw(key, params, {path: chosen[i] for path, chosen in each.items()})
        assert cl.tree.difference({path: value[i] for path, value in lanes.items()}, wanted, rtol=1e-5, atol=1e-6) is None


def test_only_the_rows_are_drawn(monkeypatch):
    """Of parameters whose rows are initialised one by one: of an orthogonal matrix, or one of joined parts, all are."""
    taken = []
    monkeypatch.setattr(
        draws, "row_bits", lambda key, shape, rows, own=draws.row_bits: taken.append(shape) or own(key, shape, rows)
    )
    for model, names in ((ZOO, {"uniform.weight", "kaiming.weight", "truncated"}), (MODELS["mlp"], {"0.weight"})):
        params = model.init(cl.key(0)).params
        for path, p in params.items():
            if p.ndim > 1:
                taken.clear()
                fresh_rows(model)(cl.key(0), {path: p}, {path: torch.tensor([0])})
                assert bool(taken) >= (path in names), path
                assert not taken or path not in ("wide.weight", "tall.weight", "joined", "turned", "rows"), path
    own = dataclasses.replace(MODELS["mlp"], fresh=lambda key, params: {name: p + 1 for name, p in params.items()})
    assert torch.equal(fresh_rows(own)(cl.key(0), {"w": torch.eye(3)}, {"w": torch.tensor([2])})["w"], torch.eye(3)[2:] + 1)


@each_model
def test_it_draws_from_the_distribution_of_init(name):
    """Each value of each parameter, over keys: the Kolmogorov-Smirnov test, and the same constants."""
    model, n = MODELS[name], 150
    params = model.init(cl.key(0)).params
    drawn = [model.fresh(cl.key(seed), params) for seed in range(n)]
    made = [model.init(cl.key(seed)).params for seed in range(n)]
    assert list(drawn[0]) == list(params)
    p_values = {}
    for path, like in params.items():
        a, b = (torch.stack([run[path] for run in runs]).reshape(n, -1).double().numpy() for runs in (drawn, made))
        assert drawn[0][path].shape == like.shape
        assert drawn[0][path].dtype == like.dtype
        constant = (b == b[:1]).all(0)
        assert (a[:, constant] == b[:1, constant]).all(), path
        for i in np.flatnonzero(~constant)[:40]:
            p_values[f"{path}[{i}]"] = stats.ks_2samp(a[:, i], b[:, i]).pvalue
        if (~constant).any():
            p_values[path] = stats.ks_2samp(a[:, ~constant].ravel(), b[:, ~constant].ravel()).pvalue
    worst = min(p_values, key=p_values.get)
    assert p_values[worst] > 1e-3 / len(p_values), worst


@each_model
def test_it_is_a_function_of_its_key_and_of_nothing_else(name):
    model = MODELS[name]
    params = model.init(cl.key(0)).params
    before = torch.get_rng_state()
    one, same = model.fresh(cl.key(3), params), pickle.loads(pickle.dumps(model)).fresh(cl.key(3), params)
    assert cl.tree.equal(one, same)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(leaf.requires_grad for leaf in one.values())
    keys = cl.random.split(cl.key(5), 3)
    lanes = torch.func.vmap(model.fresh, in_dims=(0, None))(keys, params)
    for i, key in enumerate(keys):
        lane = {path: leaf[i] for path, leaf in lanes.items()}
        assert cl.tree.difference(lane, model.fresh(key, params), rtol=1e-5, atol=1e-6) is None
    for path in params:  # some of the parameters are drawn as they are among all
        assert torch.equal(model.fresh(cl.key(3), {path: params[path]})[path], one[path]), path


def test_units_are_independent_of_each_other():
    """Across parameters and positions of one draw: no two values are equal, and layers are not correlated."""
    params = mlp(50, (50, 50), 50).init(cl.key(0)).params
    drawn = mlp(50, (50, 50), 50).fresh(cl.key(1), params)
    weights = torch.stack([drawn[f"{i}.weight"].flatten() for i in (0, 2, 4)])
    assert torch.corrcoef(weights).triu(1).abs().max() < 0.06
    drawn = ZOO.fresh(cl.key(1), ZOO.init(cl.key(0)).params)
    q = drawn["tall.weight"] / 2
    torch.testing.assert_close(q.T @ q, torch.eye(3))
    assert not drawn["embedding.weight"][1].any()
    assert not drawn["joined"][:2].any()


def redraw_all(state, exp, *, model):
    key, draw_key = cl.random.split(state.key)
    return state.replace(key=key, model=state.model.replace(params=model.fresh(draw_key, state.model.params)))


def of_every_initialiser():
    return nn.Sequential(nn.Linear(6, 5), Holder(), nn.Linear(5, 4))


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.zoo = Zoo()

    def forward(self, x):
        return x


# Inductor's own lowering of the diagonal that orthogonal_ takes, in torch 2.13.
@pytest.mark.filterwarnings("ignore:.*torch._prims_common.check.*:FutureWarning")
@pytest.mark.parametrize(("vmapped", "compiled"), [(False, False), (True, False), (True, True)])
def test_the_first_call_may_be_within_an_update_that_is_vmapped_or_compiled(vmapped, compiled):
    exp = registry.BENCH.train[0]
    model, plain = (from_module(of_every_initialiser, n_classes=4) for _ in range(2))
    states = [cl.Agent(key=cl.key(seed), model=model.init(cl.key(seed))) for seed in (0, 1)]
    want = [redraw_all(state, exp, model=plain) for state in states]
    update = functools.partial(redraw_all, model=model)
    update = cl.vmap(update) if vmapped else update
    update = cl.compile(update) if compiled else update
    after = cl.tree.unstack(update(cl.tree.stack(states), exp)) if vmapped else [update(state, exp) for state in states]
    assert cl.tree.difference(after, want, rtol=1e-4, atol=1e-5) is None


def test_the_laws_hold():
    for model in (mlp(6, (8,), 4), COSINE, registry.VIT):
        net = model.init(cl.key(1))
        update = functools.partial(redraw_all, model=model)
        testing.check_update(update, cl.Agent(key=cl.key(0), model=net), registry.BENCH.train[0])
        double = cl.tree.map(lambda leaf: leaf.double(), net.params)
        assert {leaf.dtype for leaf in model.fresh(cl.key(0), double).values()} == {torch.float64}


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 6))
        if float(self.weight.detach().sum()) > 12:
            nn.init.zeros_(self.weight)
        self.other = nn.Parameter(torch.randn(3))

    def forward(self, x):
        return x @ self.weight.T


class Exotic(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, 6).exponential_())

    def forward(self, x):
        return x @ self.weight.T


class ThroughNumpy(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, 6))
        self.weight.detach().numpy()[:] = torch.rand(4, 6).numpy() * 2

    def forward(self, x):
        return x @ self.weight.T


@pytest.mark.parametrize(
    ("factory", "why"),
    [
        (Branching, "it reads what it has drawn"),
        (Exotic, "exponential_.* has no keyed counterpart|draws"),
        (ThroughNumpy, "more than"),
    ],
)
def test_what_cannot_be_known_is_refused(factory, why):
    model = from_module(factory, n_classes=4)
    net = model.init(cl.key(0))
    with pytest.raises(ValueError, match=rf"model: the distribution that its factory draws 'weight' from cannot be known.*{why}"):
        model.fresh(cl.key(0), net.params)
    own = dataclasses.replace(model, fresh=lambda key, params: {name: torch.zeros_like(p) for name, p in params.items()})
    assert not fresh_function(own)(cl.key(0), net.params)["weight"].any()


def test_weights_that_every_init_gives_are_what_is_drawn():
    """A pretrained network: its distribution is that one point."""
    weights = nn.Linear(6, 5).state_dict()

    def factory():
        net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
        net[0].load_state_dict(weights)
        return net

    model = from_module(factory, n_classes=4)
    net = model.init(cl.key(0))
    drawn = model.fresh(cl.key(1), net.params)
    assert torch.equal(drawn["0.weight"], weights["weight"])
    assert not torch.equal(drawn["1.weight"], net.params["1.weight"])


def test_errors():
    model = mlp(6, (8,), 4)
    for made, params in ((model, model.init(cl.key(0)).params), (registry.NORMED, registry.NORMED.init(cl.key(0)).params)):
        with pytest.raises(ValueError, match=r"params: 'w' is no parameter of this model"):
            made.fresh(cl.key(0), {**params, "w": torch.ones(2)})
        with pytest.raises(ValueError, match=r"params: there are none"):
            made.fresh(cl.key(0), {})
        with pytest.raises(ValueError, match=r"params: expected '0.weight' to be a floating tensor \[8, 6\], got float32\[6\]"):
            made.fresh(cl.key(0), {**params, "0.weight": torch.ones(6)})
        with pytest.raises(TypeError, match=r"key: expected an int64 tensor"):
            made.fresh(3, params)
    with pytest.raises(ValueError, match=r"model: this method draws parameters anew.*dataclasses.replace\(model, fresh="):
        fresh_function(dataclasses.replace(model, fresh=None))
    masked = cl.models.multi_head(model, torch.ones(1, 4, dtype=torch.bool))
    assert masked.fresh is model.fresh


@pytest.mark.parametrize("shape", [(12, 30), (64, 64), (32, 300)])
def test_a_truncated_normal_stays_within_its_bounds(shape):
    """torch's draws again until all values fit, so that a record of its draws would hold for one key only."""

    def build():
        layer = torch.nn.Linear(*shape)
        torch.nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.04, b=0.03)
        return layer

    model = cl.models.from_module(build, n_classes=shape[1], input_shape=shape[:1])
    params = model.init(cl.key(0)).params
    drawn, own = (
        torch.stack([values["weight"] for values in found])
        for found in (
            [model.fresh(cl.key(i), params) for i in range(40)],
            [model.init(cl.key(100 + i)).params for i in range(40)],
        )
    )
    assert drawn.min() >= -0.04
    assert drawn.max() <= 0.03
    n = min(drawn.numel(), 20_000)
    assert stats.ks_2samp(drawn.flatten()[:n].numpy(), own.flatten()[:n].numpy()).pvalue > 0.001
    assert torch.equal(model.init(cl.key(7)).params["weight"], model.init(cl.key(7)).params["weight"])


def test_a_factory_that_looks_at_its_draws_is_refused():
    def build():
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        while net[0].weight.norm() < 0.5:
            torch.nn.init.normal_(net[0].weight)
        return net

    model = cl.models.from_module(build, n_classes=2, input_shape=(3,))
    with pytest.raises(ValueError, match=r"'0\.weight' from cannot be known, since it reads what it has drawn"):
        model.fresh(cl.key(0), model.init(cl.key(0)).params)

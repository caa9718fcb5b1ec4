"""Single rows' gradients by their two factors are those that autograd gives row by row; models without factors say so."""

from __future__ import annotations

import pytest
import registry
import torch

import cl_func as cl
from cl_func import testing
from cl_func.memory import gss
from cl_func.models import row_factors
from cl_func.regularizers import importance

BENCH = registry.BENCH
EXP = BENCH.train[0]
DEEP = cl.models.mlp(6, (5, 7), 4)
SPARE = cl.models.from_module(
    lambda: torch.nn.Sequential(torch.nn.Linear(6, 5, bias=False), torch.nn.Tanh(), torch.nn.Linear(5, 4)),
    n_classes=4,
    input_shape=(6,),
)
HEADS = cl.models.multi_head(DEEP, cl.models.class_masks(BENCH.train))


class Places(torch.nn.Module):
    """One layer at three places of a row, or twice, or beside a parameter that is in no layer."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.layer, self.last = kind, torch.nn.Linear(2 if kind == "places" else 6, 6), torch.nn.Linear(6, 4)
        self.scale = torch.nn.Parameter(torch.ones(())) if kind == "scale" else None

    def forward(self, x):
        if self.kind == "places":
            return self.last(self.layer(x.unflatten(1, (3, 2))).mean(1))
        h = self.layer(self.layer(x)) if self.kind == "twice" else self.layer(x) * self.scale
        return self.last(h)


def one_hot_weights(model, labels):
    return torch.eye(model.n_classes)[labels][:, None]


@pytest.mark.parametrize("model", [DEEP, SPARE, HEADS], ids=["mlp", "without a bias", "heads"])
@pytest.mark.parametrize("k", [1, 3])
def test_factors_make_the_gradients_of_single_rows(model, k):
    agent = cl.strategies.naive(model, registry.SGD, batch_size=5).init(cl.key(1))
    weights = cl.random.normal(cl.key(2), (len(EXP), k, 4))
    of = torch.tanh
    factors = row_factors(model, agent.model, EXP.x, EXP.tasks, of, weights)
    expected = importance.row_gradients(model, agent, EXP, weights, of)
    made = {}
    for (weight, bias), (inputs, grads) in factors.items():
        made[weight] = grads[..., None] * inputs[:, None, None]
        if bias is not None:
            made[bias] = grads
    assert made.keys() == agent.model.params.keys()
    testing.assert_equal({name: made[name] for name in expected}, expected, "gradients", 1e-4, 1e-6)


@pytest.mark.parametrize(
    "model",
    [
        registry.NORMED,
        cl.models.mlp(6, (5,), 4, head="cosine"),
        *(
            cl.models.from_module(lambda kind=kind: Places(kind), n_classes=4, input_shape=(6,))
            for kind in ("places", "twice", "scale")
        ),
    ],
    ids=["batch norm", "cosine", "places", "twice", "scale"],
)
def test_models_without_factors(model):
    net = model.init(cl.key(0))
    weights = one_hot_weights(model, EXP.y)
    assert row_factors(model, net, EXP.x, EXP.tasks, lambda z: z, weights) is None


@pytest.mark.parametrize("measure", [importance.fisher(DEEP), importance.fisher(DEEP, "all"), importance.sensitivity(DEEP)])
@pytest.mark.parametrize("lanes", [1, 2])
def test_importances_and_scores_are_the_same_either_way(measure, lanes, monkeypatch):
    """Also vmapped, and with padding."""
    init = cl.strategies.naive(DEEP, registry.SGD, batch_size=5).init
    agents = [init(cl.key(seed)) for seed in range(lanes)]
    exp = cl.experience(EXP.source, EXP.rows[:5])
    exp = exp.take(exp.rows, torch.tensor([True, True, False, True, True]))
    data = {"x": exp.x, "y": exp.y, "task": exp.tasks}

    def both(agent, exp):
        return measure.total(agent, exp), gss.cosines(DEEP, agent.model, data, data)

    fast = [both(agent, exp) for agent in agents]
    together = cl.tree.unstack(cl.vmap(both)(cl.tree.stack(agents), exp))
    for module in (importance, gss):
        monkeypatch.setattr(module, "row_factors", lambda *given: None)
    for agent, one, lane in zip(agents, fast, together, strict=True):
        testing.assert_equal(one, both(agent, exp), "by factors", 1e-4, 1e-6)
        testing.assert_equal(lane, one, "lanes", 1e-4, 1e-6)

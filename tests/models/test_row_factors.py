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
        if self.kind == "merged":
            return self.last(self.layer(x.reshape(-1, 6)[:, None].expand(-1, 2, -1).reshape(-1, 6)).reshape(-1, 2, 6).sum(1))
        if self.kind == "places":
            return self.last(self.layer(x.unflatten(1, (3, 2))).mean(1))
        h = self.layer(self.layer(x)) if self.kind == "twice" else self.layer(x) * self.scale
        return self.last(h)


class Tied(torch.nn.Module):
    """Linear layers of which one tensor is used elsewhere too."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.first, self.second = kind, torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)
        self.last = torch.nn.Linear(6, 4)
        if kind == "bias of two":
            self.second.bias = self.first.bias
        if kind == "frozen":  # a second use of what is not trained is no matter
            self.first.weight.requires_grad_(False)
            self.first.bias.requires_grad_(False)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        if self.kind in ("weight as a matrix", "frozen"):
            h = h @ self.first.weight
        elif self.kind == "weight in a list":
            h = h + torch.cat([self.first.weight[0], self.last.bias])[:6]
        elif self.kind == "bias as a factor":
            h = h * self.first.bias
        elif self.kind == "weight as an input":
            h = h + torch.nn.functional.linear(self.first.weight, self.last.weight)[:, 0]
        return self.last(torch.tanh(self.second(h)))


USES = ["bias of two", "weight as a matrix", "weight in a list", "bias as a factor", "weight as an input"]


def tied(kind):
    return cl.models.from_module(lambda: Tied(kind), n_classes=4, input_shape=(6,))


@pytest.mark.parametrize("kind", USES)
def test_importances_of_tensors_with_two_uses_are_of_both(kind):
    """Against autograd, row by row."""
    model = tied(kind)
    agent = cl.strategies.naive(model, registry.SGD).init(cl.key(1))
    expected = {name: torch.zeros_like(w) for name, w in agent.model.params.items()}
    for x, y in zip(EXP.x, EXP.y, strict=True):
        params = {name: w.clone().requires_grad_() for name, w in agent.model.params.items()}
        value = torch.log_softmax(model.apply(params, agent.model.buffers, x[None])[0], -1)[0, y]
        for name, grad in zip(params, torch.autograd.grad(value, list(params.values())), strict=True):
            expected[name] += grad.square()
    testing.assert_equal(importance.fisher(model).total(agent, EXP), expected, "fisher", 1e-4, 1e-6)


@pytest.mark.parametrize("kind", USES)
def test_owm_refuses_tensors_with_two_uses(kind):
    with pytest.raises(ValueError, match=r"model: '\w+\.(weight|bias)' of a linear layer is used elsewhere too"):
        cl.strategies.owm(tied(kind), registry.SGD).init(cl.key(0))


def test_owm_refuses_merged_rows():
    model = cl.models.from_module(lambda: Places("merged"), n_classes=4, input_shape=(6,))
    with pytest.raises(ValueError, match=r"'layer.weight' is given float32\[2, 6\] for 1 rows; keep rows on the first axis"):
        cl.strategies.owm(model, registry.SGD).init(cl.key(0))


def test_a_frozen_layer_may_be_used_anywhere():
    """What is not trained has no gradient to be factored: the factors of the others stay."""
    model = tied("frozen")
    net = model.init(cl.key(0))
    factors = row_factors(model, net, EXP.x, EXP.tasks, lambda z: z, one_hot_weights(model, EXP.y))
    assert list(factors) == [("second.weight", "second.bias"), ("last.weight", "last.bias")]
    assert cl.strategies.owm(model, registry.SGD).init(cl.key(0)).owm.biases == tuple(factors)


def one_hot_weights(model, labels):
    return torch.eye(model.n_classes)[labels][:, None]


@pytest.mark.parametrize("model", [DEEP, SPARE, HEADS], ids=["mlp", "without a bias", "heads"])
@pytest.mark.parametrize("k", [1, 3])
def test_factors_make_the_gradients_of_single_rows(model, k):
    agent = cl.strategies.naive(model, registry.SGD, batch_size=5).init(cl.key(1))
    weights = cl.random.normal(cl.key(2), (len(EXP), k, 4))
    of = torch.tanh
    factors = row_factors(model, agent.model, EXP.x, EXP.tasks, of, weights)
    expected = importance._row_gradients(model, agent, EXP, weights, of)
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
            for kind in ("places", "twice", "merged", "scale")
        ),
        registry.ODD,
        *(tied(kind) for kind in USES),
    ],
    ids=["batch norm", "cosine", "places", "twice", "merged", "scale", "odd", *USES],
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
        return measure.total(agent, exp), gss._cosines(DEEP, agent.model, data, data, cl.losses.row_losses(None))

    fast = [both(agent, exp) for agent in agents]
    together = cl.tree.unstack(cl.vmap(both)(cl.tree.stack(agents), exp))
    for module in (importance, gss):
        monkeypatch.setattr(module, "row_factors", lambda *given: None)
    for agent, one, lane in zip(agents, fast, together, strict=True):
        testing.assert_equal(one, both(agent, exp), "by factors", 1e-4, 1e-6)
        testing.assert_equal(lane, one, "lanes", 1e-4, 1e-6)

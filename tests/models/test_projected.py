"""Projections of features: what they are made of, what is trained, and models that have none."""

from __future__ import annotations

import pickle

import pytest
import registry
import torch
import torch.nn.functional as F
from torch import nn

import cl_func as cl
from cl_func import losses, models

EXP = registry.BENCH.train[0]


def test_the_head_is_given_the_features_of_the_training_pass():
    model = models.projected(registry.MODEL, 5)
    net = model.init(cl.key(0))
    plain = registry.MODEL.init(cl.key(0))
    assert all(torch.equal(value, net.params[name]) for name, value in plain.params.items())
    h = models.features(registry.MODEL, plain, EXP.x)
    assert torch.equal(models.features(model, net, EXP.x), h)
    p = {name.removeprefix("projection."): value for name, value in net.params.items()}
    expected = F.linear(F.relu(F.linear(h, p["0.weight"], p["0.bias"])), p["2.weight"], p["2.bias"])
    for train in (True, False):  # there is no layer that trains differently
        torch.testing.assert_close(model.apply(net.params, net.buffers, EXP.x, train=train)[0], expected)


def test_in_training_batch_statistics_make_the_features():
    model = models.projected(models.from_module(norm_net, n_classes=4, input_shape=(6,), last_layer="3"), 5, head="linear")
    net = model.init(cl.key(0))
    p = net.params
    out, buffers = model.apply(p, net.buffers, EXP.x, train=True)
    h = F.batch_norm(F.linear(EXP.x, p["0.weight"], p["0.bias"]), None, None, p["1.weight"], p["1.bias"], training=True).relu()
    torch.testing.assert_close(out, h @ p["projection.0.weight"].T)
    assert not torch.equal(buffers["1.running_mean"], net.buffers["1.running_mean"])
    evaluated, same = model.apply(p, net.buffers, EXP.x)
    assert same is net.buffers
    assert not torch.equal(evaluated, out)


def norm_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


@pytest.mark.parametrize("name", list(registry.PROJECTED))
def test_all_but_the_last_layer_has_a_gradient(name):
    model = registry.PROJECTED[name]
    state = registry.init(cl.key(0), model)
    grads, _ = cl.core.gradient(losses.supervised_contrastive(model), state, registry.BENCH.train[0])
    still = {name for name, grad in grads.items() if not grad.any()}
    last = {"linear": {"4.weight", "4.bias"}, "mlp": {"2.weight", "2.bias"}, "bn": {"4.weight", "4.bias"}}
    assert still == last.get(name, {"last.weight", "last.scale"})


def test_an_augmented_model_stays_augmented_and_heads_are_dropped():
    model = models.projected(registry.AUGMENTED, 5)
    plain, augment = models.split_augment(model)
    assert augment is registry.VIEWS
    assert plain.n_classes == 5
    assert models.split_heads(models.projected(registry.HEADS, 5))[1] is None
    assert set(model.init(cl.key(0)).buffers) == set(registry.AUGMENTED.init(cl.key(0)).buffers)


def test_new_parameters_for_the_model_and_the_head():
    model = models.projected(registry.MODEL, 5)
    params = model.init(cl.key(0)).params
    drawn = model.fresh(cl.key(1), params)
    assert drawn.keys() == params.keys()
    assert all(drawn[name].shape == p.shape and not torch.equal(drawn[name], p) for name, p in params.items())
    assert float(drawn["projection.2.weight"].abs().max()) < 8**-0.5
    only = {"projection.0.bias": params["projection.0.bias"]}
    assert torch.equal(model.fresh(cl.key(1), only)["projection.0.bias"], drawn["projection.0.bias"])


def test_it_is_pickled_and_wraps_what_other_functions_make():
    model = pickle.loads(pickle.dumps(models.projected(models.normalized(models.cnn((1, 4, 4), (2,), 4), 0.5, 0.5), 3)))
    net = model.init(cl.key(0))
    assert model.apply(net.params, net.buffers, torch.rand(2, 16), train=True)[0].shape == (2, 3)


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(6, 8), nn.Conv1d(8, 4, 1)

    def forward(self, x):
        return self.out(torch.relu(self.first(x))[:, :, None]).flatten(1)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.projection, self.out = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.out(torch.relu(self.projection(x)))


def deep():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 4))


@pytest.mark.parametrize(
    ("factory", "last", "message"),
    [
        (Convolved, "out", "the linear layer that runs last is not given its features"),
        (Named, "out", r"its tensor 'projection\.\w+' has the name of one of the projection's"),
        (deep, None, "features before the last layer"),
    ],
)
def test_models_that_cannot_be_projected(factory, last, message):
    with pytest.raises(ValueError, match=message):
        models.projected(models.from_module(factory, n_classes=4, input_shape=(6,), last_layer=last))

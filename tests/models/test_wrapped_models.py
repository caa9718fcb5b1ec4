"""A model made of another keeps what the other has: how it is drawn anew, the dtype and the shape of its inputs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import cl_func as cl

WRAPPERS = {
    "augmented": lambda model: cl.models.augmented(model, cl.augment.horizontal_flip()),
    "normalized": lambda model: cl.models.normalized(model, 0.5, 0.25),
    "multi_head": lambda model: cl.models.multi_head(model, torch.eye(3, dtype=torch.bool)),
    "pretrained": lambda model: cl.models.pretrained(model, model.init(cl.key(1))),
    "projected": lambda model: cl.models.projected(model, 3),
    "augmented and projected": lambda model: cl.models.projected(WRAPPERS["augmented"](model), 3),
    "normalized and augmented": lambda model: WRAPPERS["augmented"](WRAPPERS["normalized"](model)),
}


def made(dtype):
    def build():
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).to(dtype)

    return cl.models.from_module(build, n_classes=3, input_shape=(1, 2, 2), last_layer="3", input_dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", WRAPPERS)
def test_all_but_the_functions_is_kept(name, dtype):
    model = made(dtype)
    wrapped = WRAPPERS[name](model)
    for field in dataclasses.fields(model):
        one, other = getattr(model, field.name), getattr(wrapped, field.name)
        assert one == other if not callable(one) else callable(other), field.name
    net = wrapped.init(cl.key(0))
    x = torch.rand(6, 1, 2, 2, dtype=dtype)
    task = torch.zeros(6, dtype=torch.int64)
    logits, buffers = wrapped.apply(net.params, net.buffers, x, train=True, task=task)
    assert logits.dtype == dtype
    assert cl.models.features(wrapped, net.replace(buffers=buffers), x, task=task).shape == (6, 5)
    drawn = wrapped.fresh(cl.key(2), net.params)
    assert {key: (value.shape, value.dtype) for key, value in drawn.items()} == {
        key: (value.shape, value.dtype) for key, value in net.params.items()
    }
    assert any(not torch.equal(value, net.params[key]) for key, value in drawn.items())


@pytest.mark.parametrize("name", ["der", "der_pp", "scr"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_method_works_in_the_precision_of_its_model(name, dtype):
    more = {"projection_size": 5} if name == "scr" else {}
    model = WRAPPERS["augmented"](made(dtype))
    strategy = getattr(cl.strategies, name)(model, cl.optim.sgd(0.1), capacity=6, replay_size=4, batch_size=5, **more)
    data = cl.Dataset(torch.rand(18, 1, 2, 2, dtype=dtype), torch.arange(18) % 3)
    stream = cl.streams.split_by_class(data, data, n_experiences=3).train
    state = cl.fold(strategy.update, strategy.init(cl.key(0)), stream)
    assert {value.dtype for value in state.model.params.values()} == {dtype}
    assert state.replay.data["x"].dtype == dtype

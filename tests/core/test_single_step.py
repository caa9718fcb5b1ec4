"""An experience of many rows that is a single step is warned of: a batch size was forgotten."""

from __future__ import annotations

import warnings

import pytest
import registry
import torch

import cl_func as cl

MODEL = cl.models.mlp(3, hidden=(4,), n_classes=2)
DATA = cl.Dataset(cl.random.normal(cl.key(0), (2200, 3)), torch.arange(2200) % 4)
FEW, MANY = (cl.Dataset(DATA.x[:n], DATA.y[:n]) for n in (200, 2200))
SGD = cl.optim.sgd(0.1)


def stream(data, n=2):
    return cl.streams.domain_incremental(data, data, n_experiences=n)


def silent(strategy, bench):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cl.fold(strategy.update, strategy.init(cl.key(0)), bench.train[:1])


@pytest.mark.parametrize("name", ["naive", "er", "der_pp", "agem", "ewc", "gdumb", "er_ace", "cumulative", "joint"])
def test_without_a_batch_size_a_large_experience_is_one_step(name):
    more = registry.ARGUMENTS[name]
    if name == "gdumb":
        more = {"capacity": 4}
    make = getattr(cl.strategies, name)
    one = make(MODEL, SGD, **more)
    if name != "gdumb":  # which trains on its memory
        with pytest.warns(UserWarning, match=r"batch_size: without it .* the 1,100 rows of the first one are a single step"):
            cl.fold(one.update, one.init(cl.key(0)), stream(MANY).train)
    silent(make(MODEL, SGD, **more, batch_size=500), stream(MANY))
    silent(one, stream(FEW))
    silent(one, cl.streams.split_online(stream(FEW), 10))


def test_a_sweep_warns_too_and_no_other_use_does():
    naive = cl.strategies.naive(MODEL, SGD)
    with pytest.warns(UserWarning, match="a single step of the optimiser; give a batch_size"):
        cl.sweep(naive, stream(MANY), seeds=2, progress=False)
    silent(cl.strategies.naive(MODEL, SGD, epochs=3), stream(MANY))
    silent(cl.strategies.ncm(MODEL), stream(MANY))
    silent(cl.strategies.slda(MODEL), stream(MANY))
    step = cl.train_step(cl.losses.cross_entropy(MODEL), SGD)
    silent(cl.Strategy(naive.init, cl.repeat(step, 2)), stream(MANY))
    train = [exp for exp in stream(MANY).train for _ in range(60)]  # large minibatches of an online stream
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cl.fold(naive.update, naive.init(cl.key(0)), train[:102])

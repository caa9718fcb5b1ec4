"""Where things live: agents are made on the device of their key, and sweeps move each data set once."""

from __future__ import annotations

import contextlib
import sys

import pytest
import registry
import torch
from torch._subclasses import FakeTensorMode

import cl_func as cl
from cl_func import tree
from cl_func.sweeps.run_config import RunConfig
from cl_func.testing.fake_device import DEVICE

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@contextlib.contextmanager
def any_seed(key):
    """In place of `seeded`: a fake key has no value to seed with."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        yield


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case.name}-{i}") for i, case in enumerate(registry.STRATEGIES)])
def test_agents_are_made_on_the_device_of_their_key(case, monkeypatch):
    """All of their leaves; on fake tensors, so that no accelerator is needed."""
    for name, module in list(sys.modules.items()):
        if name.startswith("cl_func.models.") and hasattr(module, "seeded"):
            monkeypatch.setattr(module, "seeded", any_seed)
    init = case.make().init
    # What init asks of values, such as whether a label is negative, is answered: fake tensors have none.
    monkeypatch.setattr(torch.Tensor, "__int__", lambda _: 0)
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda _: False)
    with FakeTensorMode(allow_non_fake_inputs=True):
        state = init(torch.empty((), dtype=torch.int64, device=DEVICE))
    assert {path: str(leaf.device) for path, leaf in tree.items(state) if leaf.device != DEVICE} == {}


def test_a_sweep_moves_each_source_once():
    train, test = cl.data.digits()
    whole = cl.streams.split_by_class(train, test, n_experiences=5)
    per_key = lambda key: cl.streams.split_by_class(train, test, n_experiences=5, key=key)  # noqa: E731
    config = RunConfig(None, whole, device="cpu").on_device()
    sources = {id(exp.source) for _ in range(2) for exp in (*config.benchmark.train, *config.benchmark.test)}
    assert len(sources) == 2
    config = RunConfig(None, per_key, device="cpu").on_device()
    streams = [config.benchmark(cl.key(seed)) for seed in range(3)]
    assert len({id(exp.source) for bench in streams for exp in bench.train}) == 1
    assert RunConfig(None, whole).on_device().benchmark is whole


@CUDA
@pytest.mark.parametrize("compile", [False, True])
def test_sweeps_on_a_gpu_equal_those_on_the_processor(compile):
    bench = cl.streams.split_by_class(*cl.data.digits(), n_experiences=5)
    strategy = cl.strategies.er(cl.models.mlp(64, (32,), 10), cl.optim.sgd(0.1), capacity=50, replay_size=10, batch_size=32)
    asked = {"seeds": 2, "hparams": cl.grid({"opt.lr": [0.05, 0.1]}), "progress": False}
    here = cl.sweep(strategy, bench, compile=False, **asked)["accuracy"]
    there = cl.sweep(strategy, bench, compile=compile, device="cuda", **asked)["accuracy"]
    assert (here - there).abs().max() < 0.05  # a few rows at a boundary

"""Every method trains on views as it would on copies of what they show, to the bit."""

from __future__ import annotations

import pytest
import registry
import torch

import cl_func as cl
from cl_func import random, streams, testing
from cl_func.experiences import experience, stream

DATA = registry.BENCH.train[0].source


def softened(x, by):
    return torch.tanh(x * by)


def views():
    """Two experiences of permuted and mapped rows of one dataset."""
    bench = streams.permuted(DATA, DATA, 2, key=cl.key(11))
    return streams.mapped(bench, softened, torch.tensor([0.5, 1.5])).train


def copies():
    """The same, each experience with a dataset of its own, made by hand."""
    order = random.permutation(random.fold_in(cl.key(11), 1), DATA.x.shape[1])
    shown = [softened(DATA.x, torch.tensor(0.5)), softened(DATA.x[:, order], torch.tensor(1.5))]
    return stream([experience(cl.Dataset(x, DATA.y), index=i) for i, x in enumerate(shown)])


@pytest.mark.parametrize("name", sorted(registry.ARGUMENTS))
def test_views_are_as_good_as_copies(name):
    strategy = getattr(cl.strategies, name)(registry.MODEL, registry.SGD, batch_size=5, **registry.ARGUMENTS[name])
    assert [len(exp) for exp in views()] == [len(exp) for exp in copies()] == [len(DATA)] * 2
    ends = [
        cl.scan(strategy.update, strategy.init(cl.key(0)), some, cl.evaluate(strategy.model, some)) for some in (views(), copies())
    ]
    testing.assert_equal(*ends, "views")


def test_laws_over_a_stream_of_views():
    bench = cl.Benchmark(views(), views())
    testing.check_strategy(cl.strategies.er(registry.NORMED, registry.SGD, capacity=6, replay_size=4, batch_size=5), bench)

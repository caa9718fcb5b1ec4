"""Whatever the library makes is pickled by Python's own pickle, without cloudpickle, and does the same when it comes back."""

from __future__ import annotations

import pickle

import pytest
import registry
import torch

import cl_func as cl
from cl_func import testing


def named(cases):
    return [pytest.param(case, id=f"{case.name}-{i}-{case.target}") for i, case in enumerate(cases)]


def result(case, part):
    """What a component gives for the experience, or what a strategy gives for two."""
    state = case.state()
    exp = case.bench.train[0]
    if case in registry.STRATEGIES:
        return cl.fold(part.update, part.init(cl.key(3)), case.bench.train)
    if case in registry.LOSSES:
        return testing.components.value_and_grad(part, state, exp)
    return part(state.model.params, state, exp) if case in registry.TRANSFORMS else part(state, exp)


@pytest.mark.parametrize("case", named(registry.ALL))
def test_it_comes_back(case):
    part = case.make()
    testing.laws.assert_equal(result(case, pickle.loads(pickle.dumps(part))), result(case, part), "pickled")


@pytest.mark.parametrize("transform", [cl.vmap, cl.compile, cl.check_finite, lambda strategy: cl.compile(cl.vmap(strategy))])
def test_a_transformed_strategy_comes_back(transform):
    made = cl.strategies.er(registry.MODEL, registry.SGD, capacity=9, replay_size=4, batch_size=5)
    strategy = cl.Strategy(made.init, transform(made.update), made.model) if transform is cl.check_finite else transform(made)
    back = pickle.loads(pickle.dumps(strategy))
    key = torch.stack([cl.key(3), cl.key(4)]) if strategy.init is not made.init else cl.key(3)
    results = [cl.fold(some.update, some.init(key), registry.BENCH.train) for some in (strategy, back)]
    testing.laws.assert_equal(*results, "pickled")

"""Python's collector rests while something is compiled, and is afterwards as it was."""

from __future__ import annotations

import gc

import pytest
import torch

import cl_func as cl


@pytest.fixture(params=[True, False], ids=["enabled", "disabled"])
def collector(request):
    before = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if before else gc.disable)()


def test_it_rests_while_a_function_is_traced(collector):
    seen = []

    def update(state, exp):
        seen.append(gc.isenabled())
        return state + 1

    assert float(cl.compile(update)(torch.zeros(()), None)) == 1
    assert seen == [False]
    assert gc.isenabled() == collector


def test_it_goes_on_after_a_function_that_cannot_be_compiled(collector):
    with pytest.raises(ValueError, match="the value of a tensor is asked for"):
        cl.compile(lambda state, exp: state * float(state))(torch.zeros(()), None)
    assert gc.isenabled() == collector

"""Opaque operations, alone and within what is compiled and vmapped."""

from __future__ import annotations

import torch

import cl_func as cl
from cl_func.compiler.operators import opaque


@opaque("x", like=torch.empty_like)
def _transposed_twice(x):
    """The same values, in memory column by column."""
    return x.T.contiguous().T


def scaled(state, exp):
    return {"x": 2 * _transposed_twice(state["x"]) + 1}


def test_a_result_may_lie_in_memory_in_any_way():
    """A compiled program reads it as contiguous, so that is what it has to be."""
    state = {"x": torch.arange(6.0).reshape(2, 3)}
    assert _transposed_twice(state["x"]).is_contiguous()
    lanes = cl.tree.stack([state, cl.tree.map(torch.neg, state)])
    expected = {"x": 2 * lanes["x"] + 1}
    for update in (cl.vmap(scaled), cl.compile(cl.vmap(scaled))):
        assert torch.equal(update(lanes, None)["x"], expected["x"])
    assert torch.equal(cl.compile(scaled)(state, None)["x"], expected["x"][0])

"""Opaque operations, alone and within what is compiled and vmapped."""

from __future__ import annotations

import pytest
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


@opaque("x", like=torch.empty_like, batched=True)
def _centred(x):
    """Less its mean over the last axis, of all lanes at once."""
    assert x.ndim > 1
    return x - x.mean(-1, keepdim=True)


def test_all_lanes_may_be_solved_at_once():
    x = torch.arange(12.0).reshape(3, 4)
    expected = x - x.mean(-1, keepdim=True)
    assert torch.equal(torch.func.vmap(_centred)(x), expected)
    assert torch.equal(torch.func.vmap(_centred, in_dims=1)(x.T), expected)
    assert torch.equal(torch.func.vmap(lambda scale: _centred(x) * scale)(torch.ones(2)), expected.expand(2, 3, 4))


@opaque("x", like=lambda x: x.new_empty((), dtype=torch.int64))
def _largest(x):
    return x.argmax()


def test_a_solver_has_no_derivative_and_says_so():
    """torch takes that of an operation without a formula as 0."""

    def through(x):
        return _transposed_twice(x).sum()

    x = torch.ones(2, 3)
    refused = pytest.raises(NotImplementedError, match=r"test_operators \(_transposed_twice\) cannot be differentiated.*cl\.grid")
    for derivative in (
        lambda: torch.func.grad(through)(x),
        lambda: torch.func.jvp(through, (x,), (x,)),
        lambda: torch.func.vmap(torch.func.grad(through))(x[None]),
        lambda: torch.func.jvp(lambda x: torch.func.vmap(through)(x).sum(), (x[None],), (x[None],)),
        lambda: through(x.clone().requires_grad_()),
    ):
        with refused:
            derivative()
    with torch.no_grad():
        through(x.clone().requires_grad_())
    assert torch.equal(torch.func.grad(lambda x: (_transposed_twice(x.detach()) * x).sum())(x), x)
    # An index does not change with what it is taken of.
    assert torch.equal(torch.func.grad(lambda x: x.flatten()[_largest(x)])(x), torch.tensor([[1.0, 0, 0], [0, 0, 0]]))

"""Within a compiled step numbers too small for full precision are 0; outside nothing has changed."""

from __future__ import annotations

import pytest
import torch

import cl_func as cl
from cl_func.compiler.denormals import Flushed, flushed

SMALL = 1e-40  # float32 has full precision down to 1.2e-38


def can():
    with Flushed():
        return flushed()


pytestmark = pytest.mark.skipif(not can(), reason="this processor cannot, or not by torch.set_flush_denormal")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def less(state, exp):
    return state * 0.9


def test_small_numbers_are_0_in_a_compiled_step_alone():
    start = torch.full((3,), SMALL)
    assert not flushed()
    assert bool((less(start, None) > 0).all())
    assert cl.compile(less)(start, None).tolist() == [0.0] * 3
    assert not flushed()
    assert bool((start == SMALL).all())


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_loop_does_as_its_steps(n_threads, threads):
    """An average that is never added to ends at 0, and not at the smallest number, on all threads of the kernel."""
    threads(n_threads)
    stream = [cl.testing.small_benchmark().train[0]] * 1500
    state = cl.fold(cl.compile(less), torch.ones(1 << 16), stream, donate=True)
    assert not bool(state.any())
    eager = cl.fold(less, torch.ones(3), stream)
    assert bool((eager > 0).all())
    assert not flushed()


def test_it_ends_with_an_error():
    def failing(state, exp):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"), Flushed():
        failing(None, None)
    assert not flushed()


def test_what_the_user_has_chosen_stays():
    torch.set_flush_denormal(True)
    try:
        cl.compile(less)(torch.ones(3), None)
        assert flushed()
    finally:
        torch.set_flush_denormal(False)

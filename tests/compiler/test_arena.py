"""Memory for the intermediate values of a program: what is alive at one time does not overlap, and memory is used again."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cl_func.compiler import arena

SPANS = st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 20), st.integers(0, 20)).map(lambda s: (s[0], *sorted(s[1:]))))


@settings(max_examples=50, deadline=None)
@given(SPANS)
def test_values_that_are_alive_at_one_time_do_not_overlap(spans):
    offsets, total = arena.plan(spans)
    for i, (size, first, last) in enumerate(spans):
        assert offsets[i] % arena.ALIGNED == 0
        assert offsets[i] + size <= total
        for j, (other, begin, end) in enumerate(spans[:i]):
            apart = offsets[i] + size <= offsets[j] or offsets[j] + other <= offsets[i]
            assert apart or begin > last or end < first


def test_a_place_is_used_again():
    assert arena.plan([(64, 0, 1), (64, 2, 3), (64, 1, 2)]) == ([0, 0, 64], 128)
    assert arena.plan([]) == ([], 0)

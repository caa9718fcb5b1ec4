"""One piece of memory for all intermediate values of a program: each has its place while it is alive, and places are used again."""

from __future__ import annotations

from collections.abc import Sequence

ALIGNED = 64  # bytes: a cache line, and the widest vector


def plan(spans: Sequence[tuple[int, int, int]]) -> tuple[list[int], int]:
    """Where values go whose (size in bytes, first use, last use) are known: their offsets, and the size of the whole.

    Values of which both are alive at some time do not overlap. Large ones are placed first, each at the lowest offset that is free
    (greedy by size: Pisarchyk & Lee, "Efficient memory management for deep neural net inference", 2020, arXiv:2001.03288).
    """
    offsets, placed, total = [0] * len(spans), list[tuple[int, int, int, int]](), 0
    for i in sorted(range(len(spans)), key=lambda i: -spans[i][0]):
        size, first, last = spans[i]
        size = -(-size // ALIGNED) * ALIGNED
        start = 0
        for low, high, begin, end in sorted(placed):
            if begin > last or end < first:
                continue
            if start + size <= low:
                break
            start = max(start, high)
        offsets[i], total = start, max(total, start + size)
        placed.append((start, start + size, first, last))
    return offsets, total

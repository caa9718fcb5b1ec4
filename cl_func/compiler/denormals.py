"""Numbers too small for full precision count as 0 within a compiled step, as they do in JAX on a CPU.

Adam's averages for a weight whose gradient has become 0 shrink until they are such numbers, below 1.2e-38 in float32, and stay
there, since a tenth less of the smallest one is rounded to it again. Where units die, as in long runs, half of the optimiser's
state is like that, and arithmetic on it takes some processors a hundred times as long: a step took 2 to 4 times its time.
"""

from __future__ import annotations

import torch

_SMALLEST, _ONE = 5e-324, 1.0


def flushed() -> bool:
    """Whether this thread takes numbers that are too small for full precision as 0."""
    return _SMALLEST * _ONE == 0.0


class Flushed:
    """A context in which this thread takes numbers that are too small for full precision as 0, where the processor can."""

    __slots__ = ("before",)

    def __enter__(self) -> None:
        self.before = flushed()
        if not self.before:
            torch.set_flush_denormal(True)

    def __exit__(self, *error: object) -> None:
        if not self.before:
            torch.set_flush_denormal(False)

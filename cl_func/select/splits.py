"""What a selection trains on and measures on: functions from a benchmark to the one that it sees.

The test stream of what they return is what points are compared on; only `on_test` takes that of the benchmark itself, and none of
the others asks it for an experience.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from torch import Tensor

from cl_func import checks, signatures
from cl_func.experiences import Benchmark, Stream
from cl_func.streams.holdout import with_validation

Split = Callable[[Benchmark], Benchmark]
Make = Callable[[Tensor], Benchmark]


def held_out(benchmark: Benchmark, *, fraction: float, key: Tensor) -> Benchmark:
    """Train on a part of each experience, measure on the rest; or on the valid stream where there is one."""
    if benchmark.valid is None:
        benchmark = with_validation(benchmark, fraction, key=key)
    assert benchmark.valid is not None
    return Benchmark(train=benchmark.train, test=benchmark.valid)


def first(benchmark: Benchmark, *, k: int, fraction: float, key: Tensor) -> Benchmark:
    """The same of the first k experiences; no other is made."""
    train, valid = benchmark.train, benchmark.valid
    if k > len(train):
        raise ValueError(f"k: expected at most the {len(train)} experiences of the train stream, got {k}.")
    if valid is not None and len(valid) != len(train):
        raise ValueError(
            f"k: it is not known which of the {len(valid)} experiences of the valid stream belong to the first {k} of the "
            f"{len(train)} of the train stream; give a benchmark without a valid stream."
        )
    kept = None if valid is None else _begin(valid, k)
    return held_out(Benchmark(_begin(train, k), benchmark.test, kept), fraction=fraction, key=key)


def on_test(benchmark: Benchmark) -> Benchmark:
    """Train on all of the train stream, measure on the test stream."""
    return Benchmark(train=benchmark.train, test=benchmark.test)


def begin(benchmark: Benchmark, *, split: Split, share: float, least: int) -> Benchmark:
    """A share of the train stream that a split gives, from its beginning and of at least `least` experiences.

    Of the test stream that it gives it keeps the same share.
    """
    whole = split(benchmark)
    n = min(len(whole.train), max(least, _count(share * len(whole.train))))
    return Benchmark(train=_begin(whole.train, n), test=_begin(whole.test, max(1, _count(n / len(whole.train) * len(whole.test)))))


def _count(number: float) -> int:
    """A number of experiences, rounded up, but for what is above a whole number by rounding errors only."""
    return math.ceil(number - 1e-9)


def _begin(stream: Stream, n: int) -> Stream:
    """The first n experiences, made as the stream makes them: a lazy one stays lazy."""
    return Stream(stream.make, n)


@dataclasses.dataclass(frozen=True)
class _SplitEach:
    """Makes benchmarks from keys, and splits them."""

    make: Make
    split: Split

    def __call__(self, key: Tensor) -> Benchmark:
        made = checks.instance("benchmark", self.make(key), Benchmark, "the function to return a Benchmark")
        return self.split(made)


def apply(split: Split, benchmark: Benchmark | Make) -> Benchmark | Make:
    """What a sweep is given in place of a benchmark: the benchmark that is split, or the function that makes it for each seed."""
    if isinstance(benchmark, Benchmark):
        return split(benchmark)
    return _SplitEach(signatures.function("benchmark", benchmark, 1, "a Benchmark or a function from a key to one"), split)

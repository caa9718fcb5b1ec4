"""A validation stream held out of the train stream, to choose hyperparameters without looking at the test stream."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from cl_func import checks, random
from cl_func.experiences import Benchmark, Experience, Stream, ValidatedBenchmark
from cl_func.sources import Source
from cl_func.streams.lazy import Lazy, as_lazy


def with_validation(benchmark: Benchmark, fraction: float = 0.1, *, key: Tensor) -> ValidatedBenchmark:
    """Move a fraction of the rows of each train experience, drawn from fold_in(key, index), into a `valid` stream.

    Of an experience of n rows, round(fraction * n) go to `valid`, at least one; both parts keep the order of the rows, the task
    label and `classes`. Padding is dropped; call this before `split_online`, which pads.
    Raises ValueError for a fraction outside (0, 1), an experience that would have no train row left, or a benchmark that already
    has a valid stream.

    >>> from cl_func.data import digits
    >>> from cl_func.streams import split_by_class
    >>> bench = with_validation(split_by_class(*digits(), n_experiences=5), 0.1, key=random.key(0))
    >>> len(bench.train[0]), len(bench.valid[0])
    (259, 29)
    """
    checks.instance("benchmark", benchmark, Benchmark, "a Benchmark such as cl.streams.split_by_class(...)")
    fraction = checks.number("fraction", fraction, 0, 1)
    if benchmark.valid is not None:
        raise ValueError("benchmark: it has a valid stream already; use the benchmark that it was made from.")
    checks.key("key", key)  # here rather than when the first experience is asked for
    parent, n = as_lazy(benchmark.train), len(benchmark.train)
    for i in range(n):
        n_rows = int(parent.view(i).valid.sum())
        if _n_held_out(n_rows, fraction) >= n_rows:
            raise ValueError(
                f"fraction: {fraction} of the {n_rows} rows of train experience {i} leaves none to train on; "
                "choose a smaller fraction or larger experiences."
            )
    train, valid = (Stream(_Part(parent, fraction, key, held_out), n) for held_out in (False, True))
    return ValidatedBenchmark(train=train, test=benchmark.test, valid=valid)


def _n_held_out(n_rows: int, fraction: float) -> int:
    return max(round(fraction * n_rows), 1)


@dataclasses.dataclass(frozen=True, eq=False)
class _Part(Lazy):
    """The rows of each experience that are held out, or the others."""

    parent: Lazy
    fraction: float
    key: Tensor  # () int64
    held_out: bool

    def view(self, index: int) -> Experience:
        exp = self.parent.view(index)
        rows = exp.rows[exp.valid]
        count = _n_held_out(len(rows), self.fraction)
        order = random.permutation(random.fold_in(self.key, index), len(rows)).to(rows.device)
        rows = rows[(order[:count] if self.held_out else order[count:]).sort().values]
        return exp.take(rows, torch.ones_like(rows, dtype=torch.bool))

    def source(self, index: int) -> Source:
        return self.parent.source(index)

    @property
    def ordered(self) -> bool:
        return self.parent.ordered

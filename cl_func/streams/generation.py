"""Streams whose rows are drawn when they are asked for: any number of experiences, of any length, without storage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from cl_func import checks, random
from cl_func.checks import positive_int
from cl_func.experiences import Benchmark, Experience, Stream, experience
from cl_func.sources.generated import Generated
from cl_func.streams.lazy import Lazy
from cl_func.streams.mapping import check_params, params_of
from cl_func.tree import PyTree


def generated(
    sample: Callable[[Tensor, PyTree], tuple[Tensor, Tensor]],
    n_experiences: int,
    *,
    train_size: int,
    test_size: int,
    key: Tensor,
    params: PyTree | None = None,
    n_classes: int = 0,
) -> Benchmark:
    """Experience i has rows drawn by `sample(key, params) -> (x, y)`, one at a time, with keys from fold_in(key, i).

    sample: draws one row, as for `cl.sources.Generated`; a module-level function, so that the stream can be pickled.
    key: of the stream alone; an agent with the same key would draw the same numbers. A sweep gives each seed two.
    train_size, test_size: the rows of each train and each test experience; both are drawn alike, and no row is in both.
    params: a tree of tensors with a first axis of the experiences: experience i has `leaf[i]`, or `leaf[0]` where that axis has
        length 1. What changes along the stream, and what stays.
    n_classes: the number of classes of class labels; every experience has them all. The task label is 0 everywhere.

    Raises TypeError or ValueError for a sample that does not return a row, for params whose first axis is neither 1 nor
    n_experiences, and for sizes below 1.

    >>> def wave(key, phase):
    ...     x = random.uniform(key, 1)
    ...     return x, torch.sin(x + phase)
    >>> bench = generated(wave, 1000, train_size=10**6, test_size=50, key=random.key(0), params=torch.linspace(0, 3, 1000))
    >>> len(bench.train), bench.test[7].y.shape
    (1000, torch.Size([50, 1]))
    """
    for name, size in {"n_experiences": n_experiences, "train_size": train_size, "test_size": test_size}.items():
        positive_int(name, size)
    checks.key("key", key)
    check_params(params, n_experiences, "the stream")
    sides = [
        _Generated(sample, key, params, start, stop, train_size + test_size, n_classes)
        for start, stop in ((0, train_size), (train_size, train_size + test_size))
    ]
    sides[0].source(0)  # a bad sample is refused here
    return Benchmark(*(Stream(side, n_experiences) for side in sides))


@dataclasses.dataclass(frozen=True, eq=False)
class _Generated(Lazy):
    """Experiences of the rows start..stop-1, each of a source of its own."""

    sample: Callable[[Tensor, PyTree], tuple[Tensor, Tensor]]
    key: Tensor  # () int64
    params: PyTree | None
    start: int
    stop: int
    length: int
    n_classes: int

    def view(self, index: int) -> Experience:
        source = self.source(index)
        rows = torch.arange(self.start, self.stop, device=source.device)
        classes = torch.ones(source.n_classes, dtype=torch.bool, device=source.device)
        return experience(source, rows, index=index, classes=classes)

    def source(self, index: int) -> Generated:
        key = random.fold_in(self.key, index)
        return Generated(self.sample, key, self.length, params_of(self.params, index), self.n_classes)

"""Online streams: each experience cut into small ones, down to single samples, that are seen once and in order.

The task-free protocol: Aljundi, Kelchtermans & Tuytelaars (2019), "Task-free continual learning", arXiv:1812.03596.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.core import positive
from cl_func.experience import Benchmark, Dataset, Experience, Stream, pad
from cl_func.streams.lazy import Last, Lazy, lazy


def split_online(benchmark: Benchmark, experience_size: int, *, key: Tensor | None = None) -> Benchmark:
    """Cut every train experience into consecutive pieces of `experience_size` rows; test and valid stay as they are.

    A piece has the task label and `classes` of the experience it was cut from; its `index` counts the pieces. The last piece of an
    experience is padded up to `experience_size` with rows that are not valid, so all pieces have one shape. With a `key` the rows
    of experience i are first put into the order drawn from fold_in(key, i).
    Pieces are cut when asked for. The experience cut last is remembered, so that a permuted or rotated one is transformed once and
    not for every piece, in whatever order the pieces within it are asked for.

    >>> from cl_func.data import digits
    >>> from cl_func.streams import split_by_class
    >>> bench = split_online(split_by_class(*digits(), n_experiences=5), experience_size=10)
    >>> len(bench.train), len(bench.test)
    (146, 5)
    """
    checks.instance("benchmark", benchmark, Benchmark, "a Benchmark such as cl.streams.split_by_class(...)")
    positive("experience_size", experience_size)
    if key is not None:
        checks.key("key", key)  # a key of the wrong kind is told here, not in the middle of the stream
    parent = lazy(benchmark.train)
    whole = _Ordered(parent, key)
    counts = (-(-int(parent.view(i).valid.sum()) // experience_size) for i in range(len(benchmark.train)))
    ends = tuple(itertools.accumulate(counts))
    pieces = _Pieces(Last(whole.view), Last(whole.source), ends, experience_size)
    return dataclasses.replace(benchmark, train=Stream(pieces, ends[-1]))


@dataclasses.dataclass(frozen=True, eq=False)
class _Ordered(Lazy):
    """Experiences without their padding, their rows shuffled if there is a key."""

    parent: Lazy
    key: Tensor | None

    def view(self, index: int) -> Experience:
        exp = self.parent.view(index)
        rows = exp.rows[exp.valid]
        if self.key is not None:
            rows = rows[random.permutation(random.fold_in(self.key, index), len(rows)).to(rows.device)]
        return exp.take(rows, torch.ones_like(rows, dtype=torch.bool))

    def source(self, index: int) -> Dataset:
        return self.parent.source(index)


@dataclasses.dataclass(frozen=True, eq=False)
class _Pieces(Lazy):
    """Pieces of `size` rows, each cut from one whole experience."""

    whole: Last[Experience]
    data: Last[Dataset]
    ends: tuple[int, ...]  # ends[p]: number of pieces of the experiences 0..p
    size: int

    def view(self, index: int) -> Experience:
        parent = bisect.bisect_right(self.ends, index)
        exp = self.whole(parent)
        start = (index - (self.ends[parent - 1] if parent else 0)) * self.size
        piece = exp.take(exp.rows[start : start + self.size], exp.valid[start : start + self.size])
        piece = tree.replace(piece, index=torch.tensor(index, device=exp.index.device))
        return piece if len(piece) == self.size else pad(piece, self.size)

    def source(self, index: int) -> Dataset:
        return self.data(bisect.bisect_right(self.ends, index))

"""Online streams: each experience cut into small ones, down to single samples, that are seen once.

Data often comes class by class (a folder of images), and cut in that order every piece would hold one class. So the rows of each
experience are shuffled before it is cut.

The task-free protocol: Aljundi, Kelchtermans & Tuytelaars (2019), "Task-free continual learning", arXiv:1812.03596.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.checks import positive_int
from cl_func.experiences import Benchmark, Dataset, Experience, Stream, pad
from cl_func.streams.lazy import Last, Lazy, lazy


def split_online(benchmark: Benchmark, experience_size: int, *, shuffle: bool = True, key: Tensor | None = None) -> Benchmark:
    """Shuffle the rows of every train experience and cut it into pieces of `experience_size`; test and valid stay as they are.

    A piece has the task label and `classes` of the experience it was cut from; its `index` counts the pieces. The last piece of an
    experience is padded up to `experience_size` with rows that are not valid, so all pieces have one shape.

    shuffle: put the rows of experience i into a random order, drawn from fold_in(key, i). False keeps the order that they have in
        the stream. The rows of `blurred` streams, and of what is derived from them, keep their order in any case: it is random
        already, and part of the stream.
    key: by default cl.key(0), so that each call gives the same stream, to all seeds of a sweep too. For a stream per seed give a
        sweep the function `lambda key: split_online(benchmark, size, key=key)`.

    Pieces are cut when asked for. The experience cut last is remembered, so that a permuted or rotated one is transformed once and
    not for every piece, in whatever order the pieces within it are asked for.
    Raises ValueError for a key where nothing is drawn: with shuffle=False, or for a blurred stream.

    >>> from cl_func.data import digits
    >>> from cl_func.streams import split_by_class
    >>> bench = split_online(split_by_class(*digits(), n_experiences=5), experience_size=10)
    >>> len(bench.train), len(bench.test)
    (146, 5)
    """
    checks.instance("benchmark", benchmark, Benchmark, "a Benchmark such as cl.streams.split_by_class(...)")
    positive_int("experience_size", experience_size)
    checks.flag("shuffle", shuffle)
    parent = lazy(benchmark.train)
    if key is not None:
        checks.key("key", key)  # a key of the wrong kind is told here, not in the middle of the stream
        if not shuffle:
            raise ValueError("key: with shuffle=False no order is drawn; leave the key out.")
        if parent.ordered:
            raise ValueError("key: the rows of a blurred stream are in an order already, which another would undo; leave it out.")
    elif shuffle and not parent.ordered:
        key = random.key(0)
    whole = _Ordered(parent, key)
    counts = (-(-int(parent.view(i).valid.sum()) // experience_size) for i in range(len(benchmark.train)))
    ends = tuple(itertools.accumulate(counts))
    pieces = _Pieces(Last(whole.view), Last(whole.source), whole, ends, experience_size)
    return dataclasses.replace(benchmark, train=Stream(pieces, ends[-1]))


@dataclasses.dataclass(frozen=True, eq=False)
class _Ordered(Lazy):
    """Experiences without their padding, their rows shuffled if there is a key."""

    parent: Lazy
    key: Tensor | None  # () int64

    def view(self, index: int) -> Experience:
        exp = self.parent.view(index)
        rows = exp.rows[exp.valid]
        if self.key is not None:
            rows = rows[random.permutation(random.fold_in(self.key, index), len(rows)).to(rows.device)]
        return exp.take(rows, torch.ones_like(rows, dtype=torch.bool))

    def source(self, index: int) -> Dataset:
        return self.parent.source(index)

    @property
    def ordered(self) -> bool:
        return self.parent.ordered


@dataclasses.dataclass(frozen=True, eq=False)
class _Pieces(Lazy):
    """Pieces of `size` rows, each cut from one whole experience."""

    whole: Last[Experience]
    data: Last[Dataset]
    parent: Lazy
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

    @property
    def ordered(self) -> bool:
        return self.parent.ordered

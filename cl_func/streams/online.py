"""Online streams: each experience cut into small ones, down to single samples, each seen once.

Data often comes sorted by class (a folder of images); cut in that order, every piece would hold one class. So the rows of each
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
from cl_func.experiences import Benchmark, Experience, Stream, pad
from cl_func.sources import Source
from cl_func.streams.lazy import Last, Lazy, as_lazy


def split_online(benchmark: Benchmark, experience_size: int, *, shuffle: bool = True, key: Tensor | None = None) -> Benchmark:
    """Shuffle the rows of every train experience and cut it into pieces of `experience_size`; test and valid stay as they are.

    A piece has the task label and `classes` of the experience it was cut from; its `index` counts the pieces. The last piece of an
    experience is padded up to `experience_size` with rows that are not valid, so all pieces have one shape.

    shuffle: put the rows of experience i into a random order, drawn from fold_in(key, i). False keeps their order in the stream.
        The rows of `blurred` streams, and of streams derived from them, always keep their order: it is random already, and part of
        the stream.
    key: cl.key(0) by default, so that every call gives the same stream, also for all seeds of a sweep. For one stream per seed,
        give the sweep a function of the key: `lambda key: split_online(benchmark, size, key=key)`.

    Pieces are cut when they are asked for. The last experience that was cut is kept, so that it is made once and not for every
    piece, whatever the order in which its pieces are asked for.
    Raises ValueError for a key that would not be used: with shuffle=False, or for a blurred stream.

    >>> from cl_func.data import digits
    >>> from cl_func.streams import split_by_class
    >>> bench = split_online(split_by_class(*digits(), n_experiences=5), experience_size=10)
    >>> len(bench.train), len(bench.test)
    (146, 5)
    """
    checks.instance("benchmark", benchmark, Benchmark, "a Benchmark such as cl.streams.split_by_class(...)")
    positive_int("experience_size", experience_size)
    checks.flag("shuffle", shuffle)
    parent = as_lazy(benchmark.train)
    if key is not None:
        checks.key("key", key)  # here rather than when the first experience is asked for
        if not shuffle:
            raise ValueError("key: with shuffle=False no order is drawn; leave the key out.")
        if parent.ordered:
            raise ValueError("key: the rows of a blurred stream are in an order already, which shuffling would undo; leave it out.")
    elif shuffle and not parent.ordered:
        key = random.key(0)
    whole = _Shuffled(parent, key)
    counts = (-(-int(parent.view(i).valid.sum()) // experience_size) for i in range(len(benchmark.train)))
    ends = tuple(itertools.accumulate(counts))
    pieces = _Pieces(Last(whole.view), Last(whole.source), whole, ends, experience_size)
    return dataclasses.replace(benchmark, train=Stream(pieces, ends[-1]))


@dataclasses.dataclass(frozen=True, eq=False)
class _Shuffled(Lazy):
    """Experiences without their padding, their rows shuffled if a key is given."""

    parent: Lazy
    key: Tensor | None  # () int64

    def view(self, index: int) -> Experience:
        exp = self.parent.view(index)
        rows = exp.rows[exp.valid]
        if self.key is not None:
            rows = rows[random.permutation(random.fold_in(self.key, index), len(rows)).to(rows.device)]
        return exp.take(rows, torch.ones_like(rows, dtype=torch.bool))

    def source(self, index: int) -> Source:
        return self.parent.source(index)

    @property
    def ordered(self) -> bool:
        return self.parent.ordered


@dataclasses.dataclass(frozen=True, eq=False)
class _Pieces(Lazy):
    """Pieces of `size` rows, each cut from one whole experience."""

    whole: Last[Experience]
    data: Last[Source]
    parent: Lazy
    ends: tuple[int, ...]  # ends[i]: the number of pieces of the experiences 0..i
    size: int

    def view(self, index: int) -> Experience:
        i = self._experience(index)
        exp = self.whole(i)
        start = (index - (self.ends[i - 1] if i else 0)) * self.size
        piece = exp.take(exp.rows[start : start + self.size], exp.valid[start : start + self.size])
        piece = tree.replace(piece, index=torch.tensor(index, device=exp.index.device))
        return piece if len(piece) == self.size else pad(piece, self.size)

    def source(self, index: int) -> Source:
        return self.data(self._experience(index))

    def _experience(self, index: int) -> int:
        """The experience that piece `index` is cut from."""
        return bisect.bisect_right(self.ends, index)

    @property
    def ordered(self) -> bool:
        return self.parent.ordered

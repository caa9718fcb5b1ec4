"""Blurred boundaries: near the end of one experience rows of the next already occur, and the other way round.

With n rows in the smaller of two neighbours and w = floor(width * n), a row at distance k = 0, 1, ..., w - 1 from their boundary,
on either side of it, is one of the other experience with probability

    p(k) = (1 - (k + 1/2) / w) / 2

which decays linearly from 1/2 at the boundary to 0 at the distance w. It is done by exchanging the two rows at distance k from the
boundary with that probability, so every row is still seen once and every experience keeps its size.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.experiences import Benchmark, Dataset, Experience, Stream
from cl_func.streams.joint import labelled
from cl_func.streams.lazy import Lazy, lazy


def blurred(benchmark: Benchmark, width: float = 0.5, *, key: Tensor) -> Benchmark:
    """Blur the boundaries of the train stream over a share `width` of the smaller neighbour's rows on either side of each.

    The rows of each experience are first put into an order drawn from the key, padding is dropped; then rows are exchanged across
    the boundaries as the formula above says. With a width of 1/2 an experience is blurred over the whole of its length, and pure
    only in its middle. `classes` are those of the rows that are there. Where task labels differ along the stream the rows keep
    theirs (`exp.tasks`), and `task` is the label of the experience as it was. test and valid stay as they are.
    The order of the rows is what is blurred: train in this order, best on `split_online(blurred(benchmark, ...), size)`, which
    keeps it. An update that shuffles a whole experience sees the mixture only.
    Raises TypeError or ValueError for a width outside (0, 1/2], and ValueError for experiences that are not rows of one dataset
    (permuted, rotated) or that share a row with different task labels.

    >>> from cl_func.data import digits
    >>> from cl_func.streams import split_by_class
    >>> bench = blurred(split_by_class(*digits(), n_experiences=5), 0.25, key=random.key(0))
    >>> bench.train[1].classes.nonzero().flatten().tolist()
    [0, 1, 2, 3, 4, 5]
    """
    checks.instance("benchmark", benchmark, Benchmark, "a Benchmark such as cl.streams.split_by_class(...)")
    checks.key("key", key)
    width = checks.number("width", width, 0, 0.5, ends="(]")  # the share of an experience on one side
    parent, n = lazy(benchmark.train), len(benchmark.train)
    source = parent.source(0)
    if any(parent.source(i) is not source for i in range(1, n)):
        raise ValueError(
            "benchmark: its train experiences are not rows of one dataset, so their rows cannot be exchanged; "
            "blur a stream that splits a dataset, such as split_by_class."
        )
    order, exchange = random.split(key)
    views = [parent.view(i) for i in range(n)]
    rows, tasks = [], []
    for i, exp in enumerate(views):
        kept = exp.valid.nonzero().flatten()
        kept = kept[random.permutation(random.fold_in(order, i), len(kept)).to(kept.device)]
        rows.append(exp.rows[kept])
        tasks.append(exp.tasks[kept])
    every = torch.cat(tasks)
    if bool((every != every[0]).any()):
        with_labels = labelled(source, torch.cat(rows), every)
        if with_labels is None:
            raise ValueError("benchmark: a row is in experiences of different task labels; it cannot carry both.")
        source = with_labels
    for i in range(n - 1):
        rows[i], rows[i + 1] = _exchanged(rows[i], rows[i + 1], width, random.fold_in(exchange, i))
    return dataclasses.replace(benchmark, train=Stream(_Blurred(parent, source, tuple(rows)), n))


def _exchanged(left: Tensor, right: Tensor, width: float, key: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of two neighbours, in order, after the exchanges across their boundary."""
    w = int(width * min(len(left), len(right)))
    if w == 0:
        return left, right
    distance = torch.arange(w, dtype=torch.float64)
    swap = (random.uniform(key, w, torch.float64) < (1 - (distance + 0.5) / w) / 2).to(left.device)
    near_left, near_right = left[-w:].flip(0), right[:w]
    return (
        torch.cat([left[:-w], torch.where(swap, near_right, near_left).flip(0)]),
        torch.cat([torch.where(swap, near_left, near_right), right[w:]]),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Blurred(Lazy):
    """The experiences of another stream with other rows of the one source."""

    parent: Lazy
    data: Dataset
    rows: tuple[Tensor, ...]  # of each experience: [n_i] int64

    def view(self, index: int) -> Experience:
        exp, rows = self.parent.view(index), self.rows[index]
        classes = torch.zeros_like(exp.classes).index_fill(0, self.data.y[rows], True)
        exp = tree.replace(exp, source=self.data, classes=classes)
        return exp.take(rows, torch.ones_like(rows, dtype=torch.bool))

    def source(self, index: int) -> Dataset:
        return self.data

    @property
    def ordered(self) -> bool:
        return True

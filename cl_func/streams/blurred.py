"""Blurred boundaries: rows of the next experience occur near the end of one, and the other way round.

With n rows in the smaller of two neighbouring experiences and w = floor(width * n), the row at distance k = 0, 1, ..., w - 1 from
their boundary, on either side of it, comes from the other experience with probability

    p(k) = (1 - (k + 1/2) / w) / 2

which falls linearly from 1/2 at the boundary to 0 at distance w. The two rows at distance k are exchanged with that probability, so
every row is still seen once and every experience keeps its size.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.experiences import Benchmark, Experience, Stream, present
from cl_func.sources import Source
from cl_func.sources.source import same
from cl_func.streams.joint import with_task_labels
from cl_func.streams.lazy import Lazy, as_lazy
from cl_func.streams.online import _Pieces


def blurred(benchmark: Benchmark, width: float = 0.5, *, key: Tensor) -> Benchmark:
    """Blur each boundary of the train stream; `width` is the fraction of the smaller neighbour's rows blurred on either side.

    Padding is dropped and the rows of each experience are put into an order drawn from the key; then rows are exchanged across the
    boundaries by the formula above. With a width of 1/2 an experience is blurred over its whole length and pure only in its middle.
    `classes` are those that occur in the rows after the exchange. Where task labels differ along the stream, rows keep their labels
    (`exp.tasks`), and `task` is the label of the original experience. test and valid stay as they are.
    The blur lies in the order of the rows: train in that order, best on `split_online(blurred(benchmark, ...), size)`, which keeps
    it. An update that shuffles a whole experience sees only the mixture.
    Raises TypeError or ValueError for a width outside (0, 1/2], and ValueError for experiences that are not rows of one dataset
    (permuted, rotated) or that share a row under different task labels.

    >>> from cl_func.data import digits
    >>> from cl_func.streams import split_by_class
    >>> bench = blurred(split_by_class(*digits(), n_experiences=5), 0.25, key=random.key(0))
    >>> bench.train[1].classes.nonzero().flatten().tolist()
    [0, 1, 2, 3, 4, 5]
    """
    checks.instance("benchmark", benchmark, Benchmark, "a Benchmark such as cl.streams.split_by_class(...)")
    checks.key("key", key)
    width = checks.number("width", width, 0, 0.5, ends="(]")
    parent, n = as_lazy(benchmark.train), len(benchmark.train)
    source = parent.source(0)
    if not all(same(parent.source(i), source) for i in range(1, n)):
        raise ValueError(
            "benchmark: its train experiences are not rows of one dataset, so their rows cannot be exchanged; "
            "blur a stream that splits a dataset, such as split_by_class."
        )
    if isinstance(benchmark.train.based()[0], _Pieces):
        raise ValueError(
            "benchmark: its experiences are the pieces of an online stream, of which only neighbours would be mixed; blur first, "
            "then cut: split_online(blurred(benchmark, key=key), size)."
        )
    order_key, exchange_key = random.split(key)
    views = [parent.view(i) for i in range(n)]
    rows, tasks = [], []
    for i, exp in enumerate(views):
        kept = exp.valid.nonzero().flatten()
        kept = kept[random.permutation(random.fold_in(order_key, i), len(kept)).to(kept.device)]
        rows.append(exp.rows[kept])
        tasks.append(exp.tasks[kept])
    all_tasks = torch.cat(tasks)
    if bool((all_tasks != all_tasks[0]).any()):
        labelled = with_task_labels(source, torch.cat(rows), all_tasks)
        if labelled is None:
            raise ValueError("benchmark: a row is in experiences of different task labels; it cannot carry both.")
        source = labelled
    for i in range(n - 1):
        rows[i], rows[i + 1] = _exchange(rows[i], rows[i + 1], width, random.fold_in(exchange_key, i))
    return dataclasses.replace(benchmark, train=Stream(_Blurred(parent, source, tuple(rows)), n))


def _exchange(left: Tensor, right: Tensor, width: float, key: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of two neighbouring experiences, in order, after the exchanges across their boundary."""
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
    """The experiences of another stream with other rows of their common source."""

    parent: Lazy
    data: Source
    rows: tuple[Tensor, ...]  # one per experience: [n_i] int64

    def view(self, index: int) -> Experience:
        exp, rows = self.parent.view(index), self.rows[index]
        valid = torch.ones_like(rows, dtype=torch.bool)
        classes = present(self.data.gather_y(rows), valid, self.data.n_classes)
        return tree.replace(exp, source=self.data, classes=classes).take(rows, valid)

    def source(self, index: int) -> Source:
        return self.data

    @property
    def ordered(self) -> bool:
        return True

"""A validation stream held out of the train stream, to choose hyperparameters without looking at the test stream."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from cl_func import checks, random
from cl_func.experiences import Benchmark, Experience, Stream, ValidatedBenchmark
from cl_func.sources import Source
from cl_func.streams.lazy import Lazy, as_lazy

_TRAINED, _HELD_OUT = 1, 2


def with_validation(benchmark: Benchmark, fraction: float = 0.1, *, key: Tensor) -> ValidatedBenchmark:
    """Move a fraction of the rows of each train experience, drawn from fold_in(key, index), into a `valid` stream.

    Of an experience of n rows, round(fraction * n) go to `valid`, at least one; both parts keep the order of the rows, the task
    label and `classes`. A row that occurs in several experiences, as it is or permuted, say, is held out in all of them or in none.
    Padding is dropped; call this before `split_online`, which pads.
    Raises ValueError for a fraction outside (0, 1), an experience that would have no row left to train on or to hold out, or a
    benchmark that already has a valid stream.

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
    held, of = _held_out(parent, n, fraction, key)
    train, valid = (Stream(_Part(parent, held, of, held_out), n) for held_out in (False, True))
    return ValidatedBenchmark(train=train, test=benchmark.test, valid=valid)


def _held_out(parent: Lazy, n: int, fraction: float, key: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Which rows are held out, [N] bool for each of the data that experiences are made of, and which data each experience has.

    A row that occurs again, as in cumulative or permuted streams, stays where it is; the fraction is filled up from new ones.
    """
    numbers: dict[int, int] = {}
    owners = list[object]()  # kept alive, so that no other gets their identity
    assignments, of = list[Tensor](), list[int]()
    for i in range(n):
        exp = parent.view(i)
        rows = exp.rows[exp.valid]
        count = max(round(fraction * len(rows)), 1)
        owner = _owner(exp.source)
        number = numbers.setdefault(id(owner), len(owners))
        if number == len(owners):
            owners.append(owner)
            assignments.append(rows.new_zeros(0, dtype=torch.int8))  # 0: not seen yet
        assigned, needed = assignments[number], int(rows.max()) + 1
        if len(assigned) < needed:  # doubled, for streams of many experiences
            assignments[number] = assigned = torch.nn.functional.pad(assigned, (0, max(needed, 2 * len(assigned)) - len(assigned)))
        order = random.permutation(random.fold_in(key, i), len(rows)).to(rows.device)
        new = order[assigned[rows[order]] == 0]
        missing = max(count - int((assigned[rows] == _HELD_OUT).sum()), 0)
        assigned[rows[new]] = _TRAINED
        assigned[rows[new[:missing]]] = _HELD_OUT
        if not bool((assigned[rows] == _TRAINED).any()):
            raise ValueError(
                f"fraction: {fraction} of the {len(rows)} rows of train experience {i} leaves none to train on; "
                "choose a smaller fraction or larger experiences."
            )
        if not bool((assigned[rows] == _HELD_OUT).any()):
            raise ValueError(
                f"fraction: all of the {len(rows)} rows of train experience {i} are trained on in earlier ones, which leaves none "
                "to hold out; choose a larger fraction or larger experiences, or hold rows out before they are put together."
            )
        of.append(number)
    return tuple(assigned == _HELD_OUT for assigned in assignments), tuple(of)


def _owner(source: Source) -> object:
    """What the rows of a source belong to, whatever is made of them: the targets of a Dataset, say."""
    while isinstance(inner := getattr(source, "source", None), Source):
        source = inner
    return getattr(source, "y", source)


@dataclasses.dataclass(frozen=True, eq=False)
class _Part(Lazy):
    """The rows of each experience that are held out, or the others."""

    parent: Lazy
    held: tuple[Tensor, ...]  # which rows are held out, of each of the data
    of: tuple[int, ...]  # the data of each experience
    held_out: bool

    def view(self, index: int) -> Experience:
        exp = self.parent.view(index)
        rows = exp.rows[exp.valid]
        held = self.held[self.of[index]].to(rows.device)
        rows = rows[held[rows] == self.held_out]
        return exp.take(rows, torch.ones_like(rows, dtype=torch.bool))

    def source(self, index: int) -> Source:
        return self.parent.source(index)

    @property
    def ordered(self) -> bool:
        return self.parent.ordered

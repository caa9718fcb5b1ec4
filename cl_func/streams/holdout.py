"""A validation stream held out of the train stream, to choose hyperparameters without looking at the test stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random
from cl_func.experiences import Benchmark, Experience, Stream, ValidatedBenchmark
from cl_func.sources import Source
from cl_func.sources.origin import Origin, Owner
from cl_func.streams.lazy import Lazy, as_lazy
from cl_func.tree import describe

_TRAINED, _HELD_OUT = 1, 2


def with_validation(benchmark: Benchmark, fraction: float = 0.1, *, key: Tensor) -> ValidatedBenchmark:
    """Move a fraction of the rows of each train experience, drawn from fold_in(key, index), into a `valid` stream.

    Of an experience of n rows, round(fraction * n) go to `valid`, at least one; both parts keep the order of the rows, the task
    label and `classes`. A row that occurs several times, as it is or permuted, say, is held out in all experiences or in none.
    Padding is dropped; call this before `split_online`, which pads.
    Raises ValueError for a fraction outside (0, 1), an experience that would have no row left to train on or to hold out, a
    benchmark that already has a valid stream, or sources that do not tell where their rows come from.

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
    held = _held_out(parent, n, fraction, key)
    train, valid = (Stream(_Part(parent, held, held_out), n) for held_out in (False, True))
    return ValidatedBenchmark(train=train, test=benchmark.test, valid=valid)


def _held_out(parent: Lazy, n: int, fraction: float, key: Tensor) -> tuple[Tensor, ...]:
    """Which rows of each experience are held out, [n_i] bool of those that are valid.

    A row that occurs again, as in cumulative or permuted streams, stays where it is; the fraction is filled up from new ones.
    """
    ledger, held = _Ledger(), list[Tensor]()
    for i in range(n):
        exp = parent.view(i)
        rows = exp.rows[exp.valid]
        count = max(round(fraction * len(rows)), 1)
        origin = exp.source.origin(rows)
        part = ledger.read(origin)
        if not ledger.known and len(ledger.entries) > 1:
            raise ValueError(
                f"benchmark: rows of train experience {i}, or one before it, do not tell where they come from, so that those held "
                f"out could not be told from those trained on, {describe(exp.source)}; hold rows out before they are put together: "
                "cumulative(with_validation(...)). A source of your own tells it by `origin`, as those of cl.sources do."
            )
        order = random.permutation(random.fold_in(key, i), len(rows)).to(rows.device)
        new, times = _distinct(origin, order[part[order] == 0])
        missing = max(count - int((part == _HELD_OUT).sum()), 0)
        taken = times.cumsum(0) <= missing
        if missing and not bool((part == _HELD_OUT).any()):
            taken[:1] = True  # of rows that occur more often than that, one
        ledger.write(origin.take(new), torch.where(taken, _HELD_OUT, _TRAINED))
        part = ledger.read(origin)
        if not bool((part == _TRAINED).any()):
            raise ValueError(
                f"fraction: {fraction} of the {len(rows)} rows of train experience {i} leaves none to train on; "
                "choose a smaller fraction or larger experiences."
            )
        if not bool((part == _HELD_OUT).any()):
            raise ValueError(
                f"fraction: all of the {len(rows)} rows of train experience {i} are trained on in earlier ones, which leaves none "
                "to hold out; choose a larger fraction or larger experiences, or hold rows out before they are put together."
            )
        own = part == _HELD_OUT
        held.append(held[-1] if held and torch.equal(held[-1], own) else own)  # one for all experiences that hold all rows
    return tuple(held)


def _distinct(origin: Origin, places: Tensor) -> tuple[Tensor, Tensor]:
    """The places [n], in their order, without those of rows that came before; and how often the row of each occurs."""
    rows = origin.which[places] * (origin.numbers.max() + 1) + origin.numbers[places]
    rows, inverse, times = rows.unique(return_inverse=True, return_counts=True)
    last = torch.full_like(rows, len(places))
    first, order = last.scatter_reduce(0, inverse, torch.arange(len(places), device=places.device), "amin").sort()
    return places[first], times[order]


class _Ledger:
    """What each row of the data is for; 0 where that is not decided."""

    def __init__(self) -> None:
        self.entries: dict[Hashable, tuple[Owner, Tensor]] = {}  # by the key of the owner, which is kept alive
        self.known = True  # whether all rows tell where they come from

    def read(self, origin: Origin) -> Tensor:
        """What rows are for, [n] int8."""
        self.known &= origin.known
        found = torch.zeros_like(origin.numbers, dtype=torch.int8)
        for owner, mine in _by_owner(origin):
            rows = origin.numbers[mine]
            found[mine] = self._entry(owner, rows)[rows]
        return found

    def write(self, origin: Origin, parts: Tensor) -> None:
        """Decide it for rows [n]."""
        for owner, mine in _by_owner(origin):
            rows = origin.numbers[mine]
            self._entry(owner, rows)[rows] = parts[mine].to(torch.int8)

    def _entry(self, owner: Owner, rows: Tensor) -> Tensor:
        """What all rows of an owner are for, long enough for `rows`; doubled, for streams of many experiences."""
        _, found = self.entries.get(owner.key, (None, rows.new_zeros(0, dtype=torch.int8)))
        needed = int(rows.max()) + 1 if len(rows) else 0
        if len(found) < needed:
            found = torch.nn.functional.pad(found, (0, max(needed, 2 * len(found)) - len(found)))
        self.entries[owner.key] = owner, found
        return found


def _by_owner(origin: Origin) -> Iterator[tuple[Owner, Any]]:
    """Each owner, and which of the rows are its own."""
    if len(origin.owners) == 1:
        yield origin.owners[0], slice(None)
        return
    for number, owner in enumerate(origin.owners):
        yield owner, origin.which == number


@dataclasses.dataclass(frozen=True, eq=False)
class _Part(Lazy):
    """The rows of each experience that are held out, or the others."""

    parent: Lazy
    held: tuple[Tensor, ...]  # which rows are held out, of the valid ones of each experience
    held_out: bool

    def view(self, index: int) -> Experience:
        exp = self.parent.view(index)
        rows = exp.rows[exp.valid]
        rows = rows[self.held[index].to(rows.device) == self.held_out]
        return exp.take(rows, torch.ones_like(rows, dtype=torch.bool))

    def source(self, index: int) -> Source:
        return self.parent.source(index)

    @property
    def ordered(self) -> bool:
        return self.parent.ordered

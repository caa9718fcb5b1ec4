"""A stream whose rows are made once an experience, not once a step."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch

from cl_func import checks, tree
from cl_func.experiences import Benchmark, Experience, Stream
from cl_func.sources.held import Chosen, InMemory
from cl_func.sources.held import in_memory as gathered
from cl_func.streams.lazy import Last, Lazy, as_lazy


def in_memory(benchmark: Benchmark) -> Benchmark:
    """The same experiences, whose rows are gathered when an experience is made, and held in memory while it is trained on.

    For rows that are computed, drawn (`streams.generated`) or rotated, and small models: a step then takes rows from tensors, as it
    does those of a `Dataset`. The values are the same. Every lane holds the rows of its experience, which are numbered 0, 1, ... .

    Raises TypeError for anything but a benchmark.

    >>> from cl_func import random, streams
    >>> drawn = streams.slowly_changing_regression(random.key(0), n_experiences=3)
    >>> torch.equal(in_memory(drawn).train[1].x, drawn.train[1].x)
    True
    """
    checks.instance("benchmark", benchmark, Benchmark, "a Benchmark such as cl.streams.slowly_changing_regression(key)")
    found = {}
    for name in ("train", "test", "valid"):
        stream = getattr(benchmark, name)
        if stream is not None:
            lazy = as_lazy(stream)
            found[name] = Stream(_InMemory(lazy, Last(partial(_held, lazy))), len(stream))
    return dataclasses.replace(benchmark, **found)


@dataclasses.dataclass(frozen=True, eq=False)
class _InMemory(Lazy):
    """The experiences of another stream, with their rows held."""

    parent: Lazy
    held: Last[InMemory]  # the rows of one experience, which several lanes may ask for one after the other

    def view(self, index: int) -> Experience:
        exp = self.parent.view(index)
        rows = torch.arange(len(exp), device=exp.rows.device)
        return tree.replace(exp, source=Chosen(exp.source, exp.rows), rows=rows)

    def source(self, index: int) -> InMemory:
        return self.held(index)

    @property
    def ordered(self) -> bool:
        return self.parent.ordered


def _held(parent: Lazy, index: int) -> InMemory:
    return gathered(parent.source(index), parent.view(index).rows)

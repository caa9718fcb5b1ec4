"""A stream of datasets that come one after the other: one experience for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from cl_func import checks
from cl_func.experiences import Benchmark, Experience, Stream, experience, present
from cl_func.sources import Source
from cl_func.sources.view import all_rows
from cl_func.streams.lazy import Lazy, check_pair
from cl_func.tree import describe


def from_datasets(pairs: Iterable[tuple[Source, Source]]) -> Benchmark:
    """One experience for each pair (train, test), in their order, with any targets; the task label of experience i is i.

    Experience i of `train` holds all rows of the i-th train dataset, and that of `test` those of the i-th test dataset. No data is
    copied, and pairs may share a dataset. `classes` are those that occur in the pair. For one output for all classes, number the
    classes of all datasets together and give each the number of all of them, `Dataset(x, y, n_classes=...)`.
    Raises TypeError for anything but pairs of datasets; ValueError for no pairs, for datasets with task labels of their own, and
    for those that differ in sample shape, in dtype, in the kind or number of targets, in n_classes, or in their device.

    >>> import torch
    >>> from cl_func.sources import Dataset
    >>> x = torch.linspace(-1, 1, 20)[:, None]
    >>> waves = [Dataset(x, (x + shift).sin()) for shift in (0.0, 1.0, 2.0)]
    >>> bench = from_datasets([(wave, wave) for wave in waves])
    >>> len(bench.train), int(bench.train[2].task), bench.train[2].y.shape
    (3, 2, torch.Size([20, 1]))
    """
    if not isinstance(pairs, Iterable) or isinstance(pairs, (str, bytes, Mapping, Tensor)):
        raise checks.type_error("pairs", "pairs of datasets such as [(train, test), ...]", pairs)
    found = list(pairs)
    if not found:
        raise ValueError("pairs: there is none; give at least one (train, test).")
    for i, pair in enumerate(found):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"pairs: expected a pair (train, test) of datasets, pair {i} is {describe(pair)}.")
        for one, other in ((pair[0], pair[1]), (found[0][0], pair[0])):
            try:
                check_pair(one, other)
            except (TypeError, ValueError) as error:
                if one is pair[0]:
                    raise type(error)(f"pairs: pair {i}: {error}") from error
                said = str(error).removeprefix("train, test: ")  # they are two train datasets
                raise type(error)(f"pairs: the train datasets of pairs 0 and {i}: {said}") from error
    parts = (tuple(pair[k] for pair in found) for k in (0, 1))
    both = tuple((pair[0], pair[1]) for pair in found)
    return Benchmark(*(Stream(_OnePerDataset(part, both), len(found)) for part in parts))


@dataclasses.dataclass(frozen=True, eq=False)
class _OnePerDataset(Lazy):
    """Experience i holds a whole dataset, one of a pair."""

    data: tuple[Source, ...]
    pairs: tuple[tuple[Source, Source], ...]

    def view(self, index: int) -> Experience:
        classes = torch.stack([_classes(data) for data in self.pairs[index]]).any(0)
        return experience(self.data[index], task=index, index=index, classes=classes)

    def source(self, index: int) -> Source:
        return self.data[index]


def _classes(data: Source) -> Tensor:
    """The classes that occur in a source, [C] bool."""
    y = data.gather_y(all_rows(data))
    return present(y, torch.ones(len(y), dtype=torch.bool, device=y.device), data.n_classes)

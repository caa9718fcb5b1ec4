"""Streams that split the classes of a dataset into groups, one experience each.

    split_by_class       class-incremental: labels stay, no task labels       (which of all C classes is it?)
    task_incremental     the same, and the task label tells the group         (which class of the group that the task label names?)
    domain_incremental   labels are places within the group, no task labels   (first or second of its group, whichever the group?)

The three scenarios of van de Ven & Tolias (2019), "Three scenarios for continual learning", arXiv:1904.07734. No data is
copied: all experiences are rows of one dataset.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable

import torch
from torch import Tensor

from cl_func import checks, random
from cl_func.checks import positive_int
from cl_func.experiences import Benchmark, Dataset, Experience, Stream, experience
from cl_func.streams.lazy import Lazy, check_pair
from cl_func.tree import describe


@dataclasses.dataclass(frozen=True, eq=False)
class _Views(Lazy):
    """Experiences that are rows of one dataset."""

    data: Dataset
    rows: tuple[Tensor, ...]  # of each experience: [n_i] int64
    classes: tuple[Tensor, ...]  # of each experience: [C] bool
    tasks: tuple[int, ...]  # of each experience: its task label
    places: Tensor  # [C] int64, the place of each class of the datasets given in the order of the classes

    def view(self, index: int) -> Experience:
        return experience(self.data, self.rows[index], task=self.tasks[index], index=index, classes=self.classes[index])

    def source(self, index: int) -> Dataset:
        return self.data


def split_by_class(
    train: Dataset,
    test: Dataset,
    n_experiences: int,
    *,
    class_order: Iterable[int] | None = None,
    key: Tensor | None = None,
) -> Benchmark:
    """Class-incremental: C classes in `n_experiences` groups of equal size; labels stay 0..C-1, the task label is 0 everywhere.

    Experience j of `train`, and of `test`, holds all rows of the classes class_order[j*k : (j+1)*k] with k = C / n_experiences, in
    the order of the dataset; `classes` is the mask of these classes. The order is 0..C-1, or `class_order` (a permutation of the
    classes), or drawn from `key`.
    Raises ValueError if n_experiences does not divide C, class_order is no permutation, class_order and key are both given, train
    and test differ in n_classes, sample shape or dtype, a class has no row in train, or an experience has no row in test.

    >>> from cl_func.data import digits
    >>> bench = split_by_class(*digits(), n_experiences=5)
    >>> bench.train[1].classes.nonzero().flatten().tolist()
    [2, 3]
    """
    return _benchmark(*_views(train, test, n_experiences, class_order, key))


def task_incremental(
    train: Dataset,
    test: Dataset,
    n_experiences: int,
    *,
    class_order: Iterable[int] | None = None,
    key: Tensor | None = None,
) -> Benchmark:
    """Task-incremental: as `split_by_class`, and the task label of experience j is j.

    Labels stay 0..C-1 and `classes` masks those of the task: a multi-head model is one output of C units, masked.

    >>> from cl_func.data import digits
    >>> bench = task_incremental(*digits(), n_experiences=5)
    >>> bench.test[3].task
    tensor(3)
    """
    both = _views(train, test, n_experiences, class_order, key)
    return _benchmark(*(dataclasses.replace(views, tasks=tuple(range(n_experiences))) for views in both))


def domain_incremental(
    train: Dataset,
    test: Dataset,
    n_experiences: int,
    *,
    class_order: Iterable[int] | None = None,
    key: Tensor | None = None,
) -> Benchmark:
    """Domain-incremental: groups of classes as in `split_by_class`, each label replaced by its place within its group, 0..k-1.

    With k = C / n_experiences, the stream has k classes, all of them in every experience; the task label is 0 everywhere. The
    labels are new, the inputs are shared with the datasets given. Raises as `split_by_class` does.

    >>> from cl_func.data import digits
    >>> domain_incremental(*digits(), n_experiences=5).n_classes
    2
    """
    both = _views(train, test, n_experiences, class_order, key)
    per_group = train.n_classes // n_experiences
    return _benchmark(*(_within_groups(views, per_group) for views in both))


def _benchmark(train: _Views, test: _Views) -> Benchmark:
    return Benchmark(*(Stream(views, len(views.rows)) for views in (train, test)))


def _within_groups(views: _Views, per_group: int) -> _Views:
    data = views.data
    relabelled = Dataset(data.x, views.places[data.y] % per_group, n_classes=per_group)
    everything = torch.ones(per_group, dtype=torch.bool, device=data.y.device)
    return dataclasses.replace(views, data=relabelled, classes=(everything,) * len(views.rows))


def _views(
    train: Dataset, test: Dataset, n_experiences: int, class_order: Iterable[int] | None, key: Tensor | None
) -> tuple[_Views, _Views]:
    """The class-incremental experiences of train and of test, after checking everything that the three streams have in common."""
    check_pair(train, test)
    n_classes = train.n_classes
    if n_classes % positive_int("n_experiences", n_experiences):
        divisors = ", ".join(str(n) for n in range(1, n_classes + 1) if n_classes % n == 0)
        raise ValueError(f"n_experiences: {n_experiences} does not divide the {n_classes} classes; choose one of {divisors}.")
    absent = (torch.bincount(train.y, minlength=n_classes) == 0).nonzero().flatten().tolist()
    if absent:
        raise ValueError(f"train: no row of the classes {absent}, out of {n_classes}; relabel the classes that are there.")
    places = torch.argsort(_class_order(n_classes, class_order, key))
    return _split("train", train, places, n_experiences), _split("test", test, places, n_experiences)


def _class_order(n_classes: int, class_order: Iterable[int] | None, key: Tensor | None) -> Tensor:
    if class_order is not None and key is not None:
        raise ValueError("class_order, key: give one of them: the order itself, or a key to draw it from.")
    if key is not None:
        return random.permutation(checks.key("key", key), n_classes)
    if class_order is None:
        return torch.arange(n_classes)
    try:
        labels = list(class_order)
        given = [operator.index(label) for label in labels]
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"class_order: expected integers, got {describe(class_order)}.") from error
    if any(isinstance(label, bool) for label in labels) or sorted(given) != list(range(n_classes)):
        raise ValueError(f"class_order: expected a permutation of the classes 0..{n_classes - 1}, got {given}.")
    return torch.tensor(given)


def _split(name: str, data: Dataset, places: Tensor, n_experiences: int) -> _Views:
    places = places.to(data.y.device)
    group = places // (len(places) // n_experiences)  # of each class
    rows = tuple((group[data.y] == j).nonzero().flatten() for j in range(n_experiences))
    classes = tuple(group == j for j in range(n_experiences))
    for j in range(n_experiences):
        if len(rows[j]) == 0:
            labels = classes[j].nonzero().flatten().tolist()
            raise ValueError(f"{name}: experience {j} is empty: no row of the classes {labels}; choose fewer experiences.")
    return _Views(data, rows, classes, (0,) * n_experiences, places)

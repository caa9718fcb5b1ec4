"""Streams that split the classes of a dataset into groups, one experience each.

    split_by_class       class-incremental: labels stay, no task labels       (which of all C classes is it?)
    task_incremental     the same, and the task label tells the group         (which class of the group that the task label names?)
    domain_incremental   labels are positions within the group, no task labels   (first or second of its group, whichever it is?)

The three scenarios are those of van de Ven & Tolias (2019), "Three scenarios for continual learning", arXiv:1904.07734. No data is
copied: all experiences are rows of one dataset.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from cl_func import checks, random
from cl_func.checks import positive_int
from cl_func.experiences import Benchmark, Experience, Stream, experience, require_kind
from cl_func.sources import Source
from cl_func.sources.labels import Relabelled
from cl_func.sources.view import all_rows
from cl_func.streams.lazy import Lazy, check_pair
from cl_func.tree import describe


@dataclasses.dataclass(frozen=True, eq=False)
class ClassGroups(Lazy):
    """Experiences that are rows of one dataset, grouped by class."""

    data: Source
    rows: tuple[Tensor, ...]  # one per experience: [n_i] int64
    classes: tuple[Tensor, ...]  # one per experience: [C] bool
    tasks: tuple[int, ...]  # the task label of each experience
    positions: Tensor  # [C] int64, the position of each original class in the class order

    def view(self, index: int) -> Experience:
        return experience(self.data, self.rows[index], task=self.tasks[index], index=index, classes=self.classes[index])

    def source(self, index: int) -> Source:
        return self.data


def split_by_class(
    train: Source,
    test: Source,
    n_experiences: int | Sequence[int],
    *,
    class_order: Iterable[int] | None = None,
    key: Tensor | None = None,
) -> Benchmark:
    """Class-incremental: C classes in `n_experiences` groups of equal size; labels stay 0..C-1, the task label is 0 everywhere.

    Experience j of `train`, and of `test`, holds all rows of the classes class_order[j*k : (j+1)*k] with k = C / n_experiences, in
    the order of the dataset; `classes` is the mask of these classes. The order is 0..C-1, or `class_order` (a permutation of the
    classes), or drawn from `key`. For groups of other sizes give the number of classes of each: `[50, *[5] * 10]` begins with half
    of 100 classes (Hou et al., "Learning a unified classifier incrementally via rebalancing", CVPR 2019).
    Raises ValueError if n_experiences does not divide C, or sizes do not add up to it, class_order is no permutation, class_order
    and key are both given, train and test differ in n_classes, sample shape or dtype, a class has no row in train, or an experience
    has no row in test.

    >>> from cl_func.data import digits
    >>> bench = split_by_class(*digits(), n_experiences=5)
    >>> bench.train[1].classes.nonzero().flatten().tolist()
    [2, 3]
    >>> [int(exp.classes.sum()) for exp in split_by_class(*digits(), n_experiences=[6, 2, 2]).train]
    [6, 2, 2]
    """
    return _benchmark(*class_groups(train, test, n_experiences, class_order, key, uneven=True))


def task_incremental(
    train: Source,
    test: Source,
    n_experiences: int | Sequence[int],
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
    both = class_groups(train, test, n_experiences, class_order, key, uneven=True)
    return _benchmark(*(dataclasses.replace(groups, tasks=tuple(range(len(groups.rows)))) for groups in both))


def domain_incremental(
    train: Source,
    test: Source,
    n_experiences: int,
    *,
    class_order: Iterable[int] | None = None,
    key: Tensor | None = None,
) -> Benchmark:
    """Domain-incremental: groups of classes as in `split_by_class`, each label replaced by its position within its group, 0..k-1.

    With k = C / n_experiences, the stream has k classes, all of them in every experience; the task label is 0 everywhere. The
    labels are new, the inputs are shared with the datasets given. Raises as `split_by_class` does.

    >>> from cl_func.data import digits
    >>> domain_incremental(*digits(), n_experiences=5).n_classes
    2
    """
    both = class_groups(train, test, n_experiences, class_order, key)
    per_group = train.n_classes // n_experiences
    return _benchmark(*(_relabelled(groups, per_group) for groups in both))


def _benchmark(train: ClassGroups, test: ClassGroups) -> Benchmark:
    return Benchmark(*(Stream(groups, len(groups.rows)) for groups in (train, test)))


def _relabelled(groups: ClassGroups, per_group: int) -> ClassGroups:
    data = groups.data
    relabelled = Relabelled(data, groups.positions % per_group, n_classes=per_group)
    all_classes = torch.ones(per_group, dtype=torch.bool, device=data.device)
    return dataclasses.replace(groups, data=relabelled, classes=(all_classes,) * len(groups.rows))


def class_groups(
    train: Source,
    test: Source,
    n_experiences: int | Sequence[int],
    class_order: Iterable[int] | None,
    key: Tensor | None,
    uneven: bool = False,
) -> tuple[ClassGroups, ClassGroups]:
    """The class-incremental experiences of train and of test, with the arguments checked; errors as in `split_by_class`."""
    check_pair(train, test)
    y = train.gather_y(all_rows(train))
    require_kind(y, "a stream that splits by class", "class")
    n_classes = train.n_classes
    # A Dataset that counts its classes counts a class 0 that is none, where labels are numbered from 1.
    from_1 = [int(y.min()), int(y.max())] == [1, n_classes - 1]
    subtract = f"no row has the label 0, labels seem to go from 1 to {n_classes - 1}: number them from 0, subtract 1 (y - 1)."
    sizes = _sizes(n_experiences, n_classes, uneven, subtract if from_1 else None)
    absent = (torch.bincount(y, minlength=n_classes) == 0).nonzero().flatten().tolist()
    if absent == [0] and from_1:
        raise ValueError(f"train: {subtract}")
    if absent:
        raise ValueError(f"train: no row of the classes {absent}, out of {n_classes}; renumber the classes that do occur.")
    positions = torch.argsort(_class_order(n_classes, class_order, key))
    return _split("train", train, positions, sizes), _split("test", test, positions, sizes)


def _sizes(n_experiences: int | Sequence[int], n_classes: int, uneven: bool, subtract: str | None) -> list[int]:
    """How many classes each experience has; uneven: whether they may be given. subtract: what to do about labels from 1."""
    if uneven and isinstance(n_experiences, (list, tuple)):
        sizes = [positive_int("n_experiences", size) for size in n_experiences]
        if sum(sizes) == n_classes:
            return sizes
        mend = subtract if subtract is not None and sum(sizes) == n_classes - 1 else "give sizes that add up to that."
        raise ValueError(f"n_experiences: groups of {sizes} classes have {sum(sizes)} together, the data has {n_classes}; {mend}")
    n: int = positive_int("n_experiences", n_experiences)
    if n_classes % n == 0:
        return [n_classes // n] * n
    if subtract is not None and (n_classes - 1) % n == 0:
        raise ValueError(f"n_experiences: {n} does not divide the {n_classes} classes 0..{n_classes - 1}; {subtract}")
    divisors = ", ".join(str(d) for d in range(1, n_classes + 1) if n_classes % d == 0)
    third = n_classes // 3
    each = f", or give the number of classes of each, such as {[n_classes - 2 * third, third, third]}" if uneven and third else ""
    raise ValueError(f"n_experiences: {n} does not divide the {n_classes} classes; choose one of {divisors}{each}.")


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


def _split(name: str, data: Source, positions: Tensor, sizes: list[int]) -> ClassGroups:
    positions, y, n_experiences = positions.to(data.device), data.gather_y(all_rows(data)), len(sizes)
    ends = torch.tensor(sizes, device=data.device).cumsum(0)
    group = torch.bucketize(positions, ends, right=True)  # [C], the experience of each class
    rows = tuple((group[y] == j).nonzero().flatten() for j in range(n_experiences))
    classes = tuple(group == j for j in range(n_experiences))
    for j in range(n_experiences):
        if len(rows[j]) == 0:
            labels = classes[j].nonzero().flatten().tolist()
            raise ValueError(f"{name}: experience {j} is empty: no row of the classes {labels}; choose fewer experiences.")
    return ClassGroups(data, rows, classes, (0,) * n_experiences, positions)

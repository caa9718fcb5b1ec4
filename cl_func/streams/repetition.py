"""Class-incremental with repetition: classes come back in later experiences (Hemati, Cossu, Carta, Hurtado, Pellegrini, Bacciu,
Lomonaco & Borth, "Class-incremental learning with repetition", CoLLAs 2023).

It is the class that comes back, not its rows: the rows of a class are divided evenly among the experiences it occurs in, so every
row is seen once, as in the stream without repetition. (Their sampling-based generator, which this follows in the choice of
classes by a first occurrence and a probability of repetition, samples rows anew for experiences of one fixed size.)
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Sequence

import torch
from torch import Tensor

from cl_func import checks, random
from cl_func.checks import positive_int
from cl_func.experiences import Benchmark, Stream
from cl_func.sources import Source
from cl_func.sources.view import all_rows
from cl_func.streams.class_splits import class_groups
from cl_func.tree import describe


def class_repetition(
    train: Source,
    test: Source,
    n_experiences: int,
    *,
    probability: float | Sequence[float] | Tensor,
    introductions: int | None = None,
    key: Tensor,
) -> Benchmark:
    """Class-incremental, each class coming back with a probability in every experience after its first.

    The C classes are introduced in groups of equal size, in an order drawn from the key, in the first `introductions` experiences
    (all of them by default). After that a class occurs in each later experience with `probability`, one number or one per class; an
    experience that would have no class gets one, drawn uniformly from those introduced so far. The rows of a class, in an order
    drawn from the key, are divided among the experiences it occurs in, in parts that differ by at most one row. The task label is 0
    everywhere; with probability 0 this is `split_by_class` with the same key.
    `test` has one experience for each group, as in `split_by_class(train, test, introductions, key=key)`.
    Raises TypeError or ValueError for a probability outside [0, 1], for a number of probabilities that is not the number of
    classes, for more introductions than experiences, for a class with fewer rows than it has experiences, and as `split_by_class`
    does.

    >>> from cl_func.data import digits
    >>> bench = class_repetition(*digits(), n_experiences=5, probability=0.5, key=random.key(0))
    >>> [exp.classes.nonzero().flatten().tolist() for exp in bench.train]
    [[1, 6], [5, 8], [1, 2, 3], [0, 2, 3, 6, 9], [1, 4, 7, 8]]
    """
    positive_int("n_experiences", n_experiences)
    introductions = n_experiences if introductions is None else positive_int("introductions", introductions)
    if introductions > n_experiences:
        raise ValueError(f"introductions: expected at most the {n_experiences} experiences, got {introductions}.")
    checks.key("key", key)
    train_groups, test_groups = class_groups(train, test, introductions, None, key)
    probabilities = _probabilities(probability, train.n_classes)
    introduced = torch.stack(train_groups.classes).cpu()
    presence = _presence(introduced, n_experiences, probabilities, random.fold_in(key, 0)).to(train.device)
    rows = _divide_rows(train.gather_y(all_rows(train)), presence, random.fold_in(key, 1))
    repeated = dataclasses.replace(train_groups, rows=rows, classes=tuple(presence), tasks=(0,) * n_experiences)
    return Benchmark(Stream(repeated, n_experiences), Stream(test_groups, introductions))


def _probabilities(value: float | Sequence[float] | Tensor, n_classes: int) -> Tensor:
    """The probability of each class, [C] float64."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        value = [float(value)] * n_classes
    if isinstance(value, (str, bytes, bool)) or not isinstance(value, (Sequence, Tensor)):
        raise TypeError(f"probability: expected a number in [0, 1], or one for each class, got {describe(value)}.")
    if isinstance(value, Tensor):
        if value.is_meta:
            raise ValueError("probability: it is on the device meta, which holds no values.")
        each = checks.tensor("probability", value).double().cpu()
    else:
        each = torch.tensor([checks.number("probability", one) for one in value], dtype=torch.float64)
    if each.shape != (n_classes,):
        raise ValueError(f"probability: expected one number, or one for each of the {n_classes} classes, got {describe(value)}.")
    if not bool(((each >= 0) & (each <= 1)).all()):
        wrong = next(p for p in each.tolist() if math.isnan(p) or not 0 <= p <= 1)
        raise ValueError(f"probability: expected numbers in [0, 1], got {wrong}.")
    return each


def _presence(introduced: Tensor, n_experiences: int, probabilities: Tensor, key: Tensor) -> Tensor:
    """Which classes occur in which experience, [N, C] bool; `introduced` [G, C] bool: which are introduced in which."""
    shape = (n_experiences, introduced.shape[1])
    first = introduced.int().argmax(0)  # [C], the experience that introduces each class
    index = torch.arange(n_experiences)[:, None]
    repeat_key, fallback_key = random.split(key)
    repeated = random.uniform(repeat_key, shape, torch.float64) < probabilities
    presence = (index == first) | (repeated & (index > first))
    # An experience without any class gets the one, of those introduced so far, with the largest draw.
    draws = random.uniform(fallback_key, shape, torch.float64)
    fallback = torch.where(index > first, draws, -1.0).argmax(1)
    empty = ~presence.any(1)
    presence[empty, fallback[empty]] = True
    return presence


def _divide_rows(y: Tensor, presence: Tensor, key: Tensor) -> tuple[Tensor, ...]:
    """The rows of each experience, [n_i] int64 each, in the order of the dataset."""
    parts: list[list[Tensor]] = [[] for _ in presence]
    for label, present in enumerate(presence.T):
        experiences = present.nonzero().flatten().tolist()
        rows = (y == label).nonzero().flatten()
        if len(rows) < len(experiences):
            raise ValueError(
                f"probability: class {label} is in {len(experiences)} experiences, but has only {len(rows)} rows in train; "
                "choose a smaller probability or fewer experiences."
            )
        rows = rows[random.permutation(random.fold_in(key, label), len(rows)).to(rows.device)]
        for i, part in zip(experiences, rows.tensor_split(len(experiences)), strict=True):
            parts[i].append(part)
    return tuple(torch.cat(part).sort().values for part in parts)

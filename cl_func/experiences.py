"""Experiences: rows of a shared source. A minibatch and one sample of an online stream are experiences too.

An `Experience` holds row numbers, not data: `exp.x` gathers the rows from its source, such as a `Dataset`. So a minibatch copies
nothing until it is used, and in a vmapped run every lane has its own `rows` over one shared source.

Lanes: every field but `source`, and of the source its parameters, such as the order of a permutation, may have a leading axis, the
lanes; `lane_axes` recognises it by the number of dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from cl_func import checks, signatures, tree
from cl_func.sources import source as of_lanes
from cl_func.sources.dataset import Dataset as Dataset  # its name since before there were other sources
from cl_func.sources.source import Source, Target, as_float, target_of
from cl_func.torch_private import is_eager_cpu
from cl_func.tree import describe, state


@state
class Experience:
    """What a strategy trains on at one point of the stream: rows of a shared source.

    Rows that are not `valid` are padding: losses, metrics and memories give them no weight. A minibatch is the experience with
    fewer rows.
    """

    source: Source  # shared by all experiences, minibatches and lanes
    rows: Tensor  # [n] int64, rows of the source
    valid: Tensor  # [n] bool, False marks padding
    task: Tensor  # () int64, task label
    classes: Tensor  # [C] bool, the classes of this experience
    index: Tensor  # () int64, position in the stream

    def __len__(self) -> int:
        return self.rows.shape[-1]

    def take(self, rows: Tensor, valid: Tensor) -> Experience:
        """The same experience with other rows of its source: a minibatch."""
        return tree.replace(self, rows=rows, valid=valid)

    @property
    def x(self) -> Tensor:
        """The inputs [n, ...], floating, or int64 if they are tokens; uint8 sources are scaled to [0, 1] float32."""
        return as_float(self.source.gather_x(self.rows))

    @property
    def y(self) -> Tensor:
        """The targets of the rows: labels [n] int64, [n, C] bool, or [n] or [n, K] floating."""
        return self.source.gather_y(self.rows)

    @property
    def tasks(self) -> Tensor:
        """The task label of each row [n], int64."""
        found = self.source.gather_task(self.rows)
        return self.task.expand(self.rows.shape) if found is None else found


def one_hot(labels: Tensor, valid: Tensor, n_classes: int) -> Tensor:
    """The class of each row, [n, C] bool, from labels [n] and valid [n]; all False for rows that are not valid."""
    return (labels[:, None] == torch.arange(n_classes, device=labels.device)) & valid[:, None]


def present(y: Tensor, valid: Tensor, n_classes: int) -> Tensor:
    """Which classes occur among the targets y [n, ...] of valid rows, [C] bool; of regression C is 0."""
    target = target_of(y)
    if target == "regression":
        return valid.new_zeros(0)
    return (one_hot(y, valid, n_classes) if target == "class" else y & valid[:, None]).any(0)


def experience(
    source: Source,
    rows: Tensor | None = None,
    *,
    task: int = 0,
    index: int = 0,
    classes: Tensor | None = None,
) -> Experience:
    """Make an experience of some rows [n] int64 of a source, such as a dataset (all rows by default).

    `classes` [C] bool defaults to the classes that occur; of regression C is 0. Raises TypeError for rows that are not int64;
    ValueError for no rows, for rows outside the source, and for a class mask that leaves out a label that occurs.
    """
    checks.instance("source", source, Source, "a cl.Dataset, or another source")
    checks.positive_int("task", task, least=0)
    checks.positive_int("index", index, least=0)
    device = source.device
    if rows is None:
        rows = torch.arange(len(source), device=device)
    if not isinstance(rows, Tensor) or rows.dtype != torch.int64 or rows.ndim != 1:
        raise TypeError(f"rows: expected an int64 tensor [n], got {describe(rows)}.")
    if rows.is_meta:
        raise ValueError("rows: they are on the device meta, which holds no values; make them with torch.tensor.")
    if len(rows) == 0:
        raise ValueError(f"rows: experience {index} is empty; give it at least one row, or leave it out of the stream.")
    if int(rows.min()) < 0 or int(rows.max()) >= len(source):
        raise ValueError(f"rows: expected rows of the dataset, 0..{len(source) - 1}, got {int(rows.min())}..{int(rows.max())}.")
    rows = rows.to(device)
    everything = torch.ones(source.n_classes, dtype=torch.bool, device=device)
    if classes is not None and (
        not isinstance(classes, Tensor) or classes.dtype != torch.bool or classes.shape != everything.shape or classes.is_meta
    ):
        raise ValueError(f"classes: expected a mask bool[{source.n_classes}], got {describe(classes)}.")
    if classes is None or not bool(classes.all()):  # all of them leave out none, and regression has none: no target is made
        occur = present(source.gather_y(rows), torch.ones_like(rows, dtype=torch.bool), source.n_classes)
        classes = occur if classes is None else classes.to(device)
        if bool((occur & ~classes).any()):
            missing = (occur & ~classes).nonzero().flatten().tolist()
            raise ValueError(f"classes: the mask leaves out the labels {missing}, which occur in the rows of experience {index}.")
    return Experience(
        source=source,
        rows=rows,
        valid=torch.ones_like(rows, dtype=torch.bool),
        task=torch.tensor(task, device=device),
        classes=classes.to(device),
        index=torch.tensor(index, device=device),
    )


_WORDS = {"class": "class labels", "multilabel": "multi-label targets", "regression": "targets for regression"}


def require_target(exp: Experience, what: str, *kinds: Target) -> None:
    """Check that an experience has targets of one of some kinds. Raises ValueError that says what is for those alone."""
    if exp.source.target not in kinds:
        raise _wrong_kind(exp.y, what, kinds)


def require_kind(y: Tensor, what: str, *kinds: Target) -> None:
    """Check that targets are of one of some kinds, as `require_target` does those of an experience."""
    if target_of(y) not in kinds:
        raise _wrong_kind(y, what, kinds)


def _wrong_kind(y: Tensor, what: str, kinds: tuple[Target, ...]) -> ValueError:
    wanted = " or ".join(_WORDS[kind] for kind in kinds)
    mend = _as_classes(y) if "class" in kinds else ""
    return ValueError(f"y: {what} is for {wanted}; this data has {_WORDS[target_of(y)]}, {describe(y)}{mend}.")


def _as_classes(y: Tensor) -> str:
    """How floating or bool targets become labels if they are meant as classes, in words; "" if they cannot be."""
    if y.is_floating_point() and is_eager_cpu(y) and not bool((y == y.round()).all()):
        return ""
    if y.ndim == 1:
        return "; if they are class numbers, convert them with y.long(), or in numpy y.astype(numpy.int64)"
    if y.shape[1] == 1:
        return "; if they are class numbers, convert them with y[:, 0].long()"
    of_bool = "y.long().argmax(1), or in numpy y.argmax(1)"  # torch has no argmax of bool
    return f"; if each row is one class, one-hot, convert them with {of_bool if y.dtype == torch.bool else 'y.argmax(1)'}"


_RANK = {"rows": 1, "valid": 1, "task": 0, "classes": 1, "index": 0}


def lane_axes(exp: Any) -> list[int | None]:
    """For each leaf of `exp`, 0 if it has a leading lane axis, None if all lanes share it.

    Of the source only parameters may have one. Anything but an Experience is shared as a whole.
    """
    items = tree.items(exp)
    if not isinstance(exp, Experience):
        return [None] * len(items)
    ranks = exp.source.ranks if exp.source is not None else []
    ranks += [_RANK[path] for path, _ in items[len(ranks) :]]
    return [None if rank is None or leaf.ndim == rank else 0 for (_, leaf), rank in zip(items, ranks, strict=True)]


def lanes(exp: Experience) -> list[Experience]:
    """The experience of each lane; the experience itself, alone, where it has no lanes."""
    axes, (leaves, structure) = lane_axes(exp), tree.flatten(exp)
    n = next((len(leaf) for leaf, axis in zip(leaves, axes, strict=True) if axis is not None), None)
    if n is None:
        return [exp]
    parts = ([leaf if axis is None else leaf[i] for leaf, axis in zip(leaves, axes, strict=True)] for i in range(n))
    return [tree.unflatten(structure, part) for part in parts]


def pad(exp: Experience, n: int) -> Experience:
    """The experience with padding rows appended up to n rows; they repeat its first row and are not valid."""
    missing = n - len(exp)
    if missing < 0:
        raise ValueError(f"n: expected at least the {len(exp)} rows of the experience, got {n}.")
    rows = torch.cat([exp.rows, exp.rows[..., :1].expand(*exp.rows.shape[:-1], missing)], dim=-1)
    valid = torch.cat([exp.valid, exp.valid.new_zeros(*exp.valid.shape[:-1], missing)], dim=-1)
    return exp.take(rows, valid)


def stack(experiences: Sequence[Experience]) -> Experience:
    """One experience for several lanes, each with its own rows of one shared source; shorter ones are padded.

    Sources may differ in their parameters, such as the order of a permutation. Raises ValueError if they differ in more.
    """
    first = experiences[0]
    source = of_lanes.stack([exp.source for exp in experiences])
    longest = max(len(exp) for exp in experiences)
    lanes = [pad(exp, longest) for exp in experiences]
    rest = {name: torch.stack([getattr(lane, name) for lane in lanes]) for name in _RANK}
    return tree.replace(first, source=source, **rest)


@dataclasses.dataclass(frozen=True)
class Stream(Sequence[Experience]):
    """A lazy sequence of experiences: `make(i)` builds the i-th one when it is asked for."""

    make: Callable[[int], Experience]
    length: int

    def __post_init__(self) -> None:
        signatures.function("make", self.make, 1, "a function from an index to an experience")
        checks.positive_int("length", self.length, least=0)

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Experience: ...
    @overload
    def __getitem__(self, index: slice) -> Stream: ...
    def __getitem__(self, index: int | slice) -> Experience | Stream:
        if isinstance(index, slice):
            return Stream(_Slice(self.make, tuple(range(self.length)[index])), len(range(self.length)[index]))
        if not -self.length <= index < self.length:
            raise IndexError(f"experience {index} of a stream of {self.length}; there are 0..{self.length - 1}.")
        return self.make(index % self.length)

    def __iter__(self) -> Iterator[Experience]:
        return (self.make(i) for i in range(self.length))

    def based(self) -> tuple[Callable[[int], Experience] | Sequence[Experience], Sequence[int]]:
        """What the stream is a slice of, its `make` or the list that holds the experiences, and their indices in it."""
        make = self.make
        indices: Sequence[int] = range(self.length)
        while isinstance(make, _Slice):
            indices, make = [make.indices[i] for i in indices], make.make
        owner = getattr(make, "__self__", None)
        if isinstance(owner, (list, tuple)) and getattr(make, "__name__", "") == "__getitem__":
            return owner, indices
        return make, indices

    def __repr__(self) -> str:
        return f"Stream of {self.length} experiences"


@dataclasses.dataclass(frozen=True)
class _Slice:
    """The experiences of another stream at some indices, in their order."""

    make: Callable[[int], Experience]
    indices: tuple[int, ...]

    def __call__(self, index: int) -> Experience:
        return self.make(self.indices[index])

    @property
    def ordered(self) -> bool:
        """Whether the order of the rows is part of the stream (`streams.lazy.Lazy.ordered`)."""
        return getattr(self.make, "ordered", False)


def stream(experiences: Sequence[Experience]) -> Stream:
    """A stream of experiences that are made already."""
    experiences = tuple(experiences)
    if not experiences:
        raise ValueError("experiences: a stream needs at least one experience.")
    return Stream(experiences.__getitem__, len(experiences))


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """The streams of one problem: train on `train`, report on `test`, choose hyperparameters on `valid`.

    Experience i of each is of the same task, except where `train` is cut finer, as by `cl.streams.split_online`.
    """

    train: Stream
    test: Stream
    valid: Stream | None = None

    def __post_init__(self) -> None:
        for name in ("train", "test", "valid"):
            value = getattr(self, name)
            if not isinstance(value, Stream) and not (name == "valid" and value is None):
                made = "a cl.Stream(make, length), such as benchmark.train; of a list cl.Stream(exps.__getitem__, len(exps))"
                raise checks.type_error(name, made, value)

    @property
    def n_classes(self) -> int:
        """The number of classes C."""
        return self.test[0].classes.shape[-1]


@dataclasses.dataclass(frozen=True)
class ValidatedBenchmark(Benchmark):
    """A Benchmark that has a `valid` stream, as `cl.streams.with_validation` makes it: to a type checker `valid` is never None."""

    valid: Stream = dataclasses.field()  # required: no default is inherited

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.instance("valid", self.valid, Stream, "a cl.Stream(make, length), such as benchmark.valid")

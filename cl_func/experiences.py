"""Experiences: views of a shared dataset. A minibatch and one sample of an online stream are experiences too.

An `Experience` holds row numbers, not data: `exp.x` gathers `source.x[rows]`. So a minibatch copies nothing until it is used,
and in a vmapped run every lane has its own `rows` over one shared source.

Lanes: every field but `source` may have a leading axis, the lanes; `lane_axes` recognises it by the number of dimensions.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.tree import describe, state, static

Target = Literal["class", "multilabel", "regression"]
_TARGET_SHAPES = {"class": ((1,), "[N]"), "multilabel": ((2,), "[N, C]"), "regression": ((1, 2), "[N] or [N, K]")}


def target_of(y: Tensor) -> Target:
    """The kind of problem that targets are of, by their dtype: "class", "multilabel" or "regression". TypeError for others."""
    if y.dtype == torch.int64:
        return "class"
    if y.dtype == torch.bool:
        return "multilabel"
    if y.is_floating_point():
        return "regression"
    raise TypeError(
        f"y: expected int64 labels, bool labels [N, C] or floating targets, got {describe(y)}; convert it, labels with y.long()."
    )


@state(kw_only=False)
class Dataset:
    """Inputs and targets that experiences share: `Dataset(x, y)`. What y is says what kind of problem it is (`target`):

        "class"        y [N] int64, labels 0..n_classes-1; `n_classes` is the largest label plus one where it is not given
        "multilabel"   y [N, C] bool, each row any number of C labels; `n_classes` is C
        "regression"   y [N] or [N, K] floating and finite; `n_classes` is 0

    uint8 inputs stay uint8 in memory and are scaled to [0, 1] float32 when they are gathered. int64 inputs are tokens, for a model
    of `input_dtype=torch.int64`, and stay as they are. Raises TypeError or ValueError for wrong types, dtypes, lengths, labels and
    targets that are not finite.
    """

    x: Tensor  # [N, ...] floating, uint8 (images) or int64 (tokens)
    y: Tensor  # [N] int64, [N, C] bool, or [N] or [N, K] floating
    task: Tensor | None = None  # [N] int64, for rows of different tasks; None: all rows have the experience's label
    n_classes: int = static(default=0)

    def __post_init__(self) -> None:
        for name, value in (("x", self.x), ("y", self.y)):
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"{name}: expected a tensor, got {type(value).__name__}; for numpy arrays use cl.data.from_arrays(x, y)."
                )
        if not (self.x.dtype.is_floating_point or self.x.dtype in (torch.uint8, torch.int64)):
            raise TypeError(
                f"x: expected a floating or uint8 tensor, or tokens as int64, got {describe(self.x)}; convert it with x.float(), "
                "or tokens with x.long()."
            )
        target = target_of(self.y)
        ranks, shapes = _TARGET_SHAPES[target]
        if self.x.ndim < 2 or self.y.ndim not in ranks:
            raise ValueError(f"x, y: expected shapes [N, ...] and {shapes}, got {list(self.x.shape)} and {list(self.y.shape)}.")
        if len(self.x) != len(self.y):
            raise ValueError(f"x, y: lengths differ: {len(self.x)} rows of x, {len(self.y)} of y.")
        if len(self.y) == 0:
            raise ValueError("x, y: the dataset is empty; give at least one row.")
        checks.positive_int("n_classes", self.n_classes, least=0)
        if self.x.device != self.y.device:
            raise ValueError(f"x, y: on different devices: {self.x.device} and {self.y.device}; move one with .to(device).")
        if self.x.is_meta:
            raise ValueError("x, y: they are on the device meta, which holds no values; move them with .to(device).")
        if self.task is not None:
            checks.tensor("task", self.task, self.y.shape[:1], torch.int64, like=self.x)
            if int(self.task.min()) < 0:
                raise ValueError(f"task: task labels are at least 0, got {int(self.task.min())}; number the tasks from 0.")
        object.__setattr__(self, "n_classes", self._count_classes(target))

    def _count_classes(self, target: Target) -> int:
        """How many classes there are, after a check of the targets."""
        if target == "regression":
            if self.n_classes:
                raise ValueError(f"n_classes: y {describe(self.y)}, targets for regression, have no classes, got {self.n_classes}.")
            if not bool(self.y.isfinite().all()):
                n_rows = int((~self.y.isfinite()).reshape(len(self.y), -1).any(1).sum())
                raise ValueError(f"y: {n_rows} rows of targets are not finite; leave them out, or fill them in.")
            return 0
        if target == "multilabel":
            if self.y.shape[1] == 0 or self.n_classes not in (0, self.y.shape[1]):
                raise ValueError(
                    f"n_classes: y {describe(self.y)} has a column for each of {self.y.shape[1]} labels, got {self.n_classes}."
                )
            return self.y.shape[1]
        low, high = int(self.y.min()), int(self.y.max())
        if low < 0:
            raise ValueError(f"y: labels are at least 0, got labels from {low} to {high}; number the classes from 0.")
        n_classes = self.n_classes or high + 1
        if high >= n_classes:
            raise ValueError(f"y: labels must lie in 0..n_classes-1 = 0..{n_classes - 1}, got labels from {low} to {high}.")
        return n_classes

    def __len__(self) -> int:
        return self.y.shape[0]

    @property
    def target(self) -> Target:
        """What kind of problem it is: "class", "multilabel" or "regression"."""
        return target_of(self.y)

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """Dtype, shape and a digest of the values of x, y and task, by name; takes about 1 s for 1.5 GB.

        Computed once and cached: tensors changed in place later, which nothing in the library does, keep the old digest.
        """
        return {name: f"{describe(leaf)} #{digest(leaf)}" for name, leaf in tree.items(self)}


def digest(values: Tensor) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a tensor's values, in their order; a contiguous tensor is not copied."""
    return hashlib.sha256(as_bytes(values).numpy().data).hexdigest()[:16]


def as_bytes(values: Tensor) -> Tensor:
    """The bytes of a tensor's values, in their order, [n] uint8; they tell NaN of different bits, and 0 and -0, apart."""
    return values.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


@state
class Experience:
    """What a strategy trains on at one point of the stream: rows of a shared source.

    Rows that are not `valid` are padding: losses, metrics and memories give them no weight. A minibatch is the experience with
    fewer rows.
    """

    source: Dataset  # shared by all experiences, minibatches and lanes
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
        return as_float(self.source.x[self.rows])

    @property
    def y(self) -> Tensor:
        """The targets of the rows: labels [n] int64, [n, C] bool, or [n] or [n, K] floating."""
        return self.source.y[self.rows]

    @property
    def tasks(self) -> Tensor:
        """The task label of each row [n], int64."""
        return self.task.expand(self.rows.shape) if self.source.task is None else self.source.task[self.rows]


def one_hot(labels: Tensor, valid: Tensor, n_classes: int) -> Tensor:
    """The class of each row, [n, C] bool, from labels [n] and valid [n]; all False for rows that are not valid."""
    return (labels[:, None] == torch.arange(n_classes, device=labels.device)) & valid[:, None]


def present(y: Tensor, valid: Tensor, n_classes: int) -> Tensor:
    """Which classes occur among the targets y [n, ...] of valid rows, [C] bool; of regression C is 0."""
    target = target_of(y)
    if target == "regression":
        return valid.new_zeros(0)
    return (one_hot(y, valid, n_classes) if target == "class" else y & valid[:, None]).any(0)


def as_float(x: Tensor) -> Tensor:
    """uint8 values scaled to [0, 1] float32; floating values, and tokens of int64, as they are."""
    return x.to(torch.float32) / 255 if x.dtype == torch.uint8 else x


def experience(
    source: Dataset,
    rows: Tensor | None = None,
    *,
    task: int = 0,
    index: int = 0,
    classes: Tensor | None = None,
) -> Experience:
    """Make an experience of some rows [n] int64 of a dataset (all rows by default).

    `classes` [C] bool defaults to the classes that occur; of regression C is 0. Raises TypeError for rows that are not int64;
    ValueError for no rows, for rows outside the dataset, and for a class mask that leaves out a label that occurs.
    """
    checks.instance("source", source, Dataset, "a cl.Dataset")
    checks.positive_int("task", task, least=0)
    checks.positive_int("index", index, least=0)
    device = source.x.device
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
    occur = present(source.y[rows], torch.ones_like(rows, dtype=torch.bool), source.n_classes)
    if classes is None:
        classes = occur
    if not isinstance(classes, Tensor) or classes.dtype != torch.bool or classes.shape != occur.shape or classes.is_meta:
        raise ValueError(f"classes: expected a mask bool[{source.n_classes}], got {describe(classes)}.")
    classes = classes.to(device)
    if bool((occur & ~classes).any()):
        missing = (occur & ~classes).nonzero().flatten().tolist()
        raise ValueError(f"classes: the mask leaves out the labels {missing}, which occur in the rows of experience {index}.")
    return Experience(
        source=source,
        rows=rows,
        valid=torch.ones_like(rows, dtype=torch.bool),
        task=torch.tensor(task, device=device),
        classes=classes,
        index=torch.tensor(index, device=device),
    )


_WORDS = {"class": "class labels", "multilabel": "multi-label targets", "regression": "targets for regression"}


def require_target(exp: Experience, what: str, *kinds: Target) -> None:
    """Check that an experience has targets of one of some kinds. Raises ValueError that says what is for those alone."""
    require_kind(exp.source.y, what, *kinds)


def require_kind(y: Tensor, what: str, *kinds: Target) -> None:
    """Check that targets are of one of some kinds, as `require_target` does those of an experience."""
    if target_of(y) not in kinds:
        wanted = " or ".join(_WORDS[kind] for kind in kinds)
        raise ValueError(f"y: {what} is for {wanted}; this data has {_WORDS[target_of(y)]}, {describe(y)}.")


_RANK = {"rows": 1, "valid": 1, "task": 0, "classes": 1, "index": 0}


def lane_axes(exp: Any) -> list[int | None]:
    """For each leaf of `exp`, 0 if it has a leading lane axis, None if all lanes share it.

    The source is always shared. Anything but an Experience is shared as a whole.
    """
    if not isinstance(exp, Experience):
        return [None] * len(tree.leaves(exp))
    return [0 if path in _RANK and leaf.ndim > _RANK[path] else None for path, leaf in tree.items(exp)]


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

    Raises ValueError if the sources differ.
    """
    first = experiences[0]
    if any(exp.source is not first.source for exp in experiences):
        raise ValueError("experiences: lanes must share one source; make their streams from the same datasets.")
    longest = max(len(exp) for exp in experiences)
    lanes = [pad(exp, longest) for exp in experiences]
    return tree.replace(first, **{name: torch.stack([getattr(lane, name) for lane in lanes]) for name in _RANK})


@dataclasses.dataclass(frozen=True)
class Stream(Sequence[Experience]):
    """A lazy sequence of experiences: `make(i)` builds the i-th one when it is asked for."""

    make: Callable[[int], Experience]
    length: int

    def __post_init__(self) -> None:
        checks.function("make", self.make, "a function from an index to an experience")
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
    """The streams of one problem: train on `train`, report on `test`, choose hyperparameters on `valid`."""

    train: Stream
    test: Stream
    valid: Stream | None = None

    def __post_init__(self) -> None:
        for name in ("train", "test", "valid"):
            value = getattr(self, name)
            if not isinstance(value, Stream) and not (name == "valid" and value is None):
                raise checks.type_error(name, "a cl.Stream(make, length), such as benchmark.train", value)

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

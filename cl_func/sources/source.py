"""Sources: what experiences take their rows from.

    gather_x(rows)       the inputs of rows [n], as they are stored: [n, ...]
    gather_y(rows)       their targets
    gather_task(rows)    their task labels [n] int64, or None where all rows have the label of the experience

A source is an immutable pytree, and these are pure functions of it: they run inside a compiled, vmapped step. So what is shown to a
model may be computed from what is stored, minibatch by minibatch, and nothing is copied beforehand.

Lanes: all lanes of a vmapped run share the tensors of a source, except for its parameters: the fields marked `per_lane`, which may
have a leading axis.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from cl_func import tree
from cl_func.sources.origin import REMEMBERED, Origin, recalled, rows_of
from cl_func.tree import describe

Target = Literal["class", "multilabel", "regression"]


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


def as_float(x: Tensor) -> Tensor:
    """uint8 values scaled to [0, 1] float32; floating values, and tokens of int64, as they are."""
    return x.to(torch.float32) / 255 if x.dtype == torch.uint8 else x


class Source(abc.ABC):
    """What experiences take their rows from: a `@cl.state` class with the members below. `Dataset` is the plain one.

    For a source of your own that changes what another one gives, subclass `View`; for one that makes its rows, this class. Tensors
    that lanes may have of their own are fields marked `cl.sources.per_lane(rank)`.
    """

    n_classes: int  # the number of classes C, 0 for regression: a static field or a property

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of rows N."""

    @property
    @abc.abstractmethod
    def target(self) -> Target:
        """What kind of problem it is: "class", "multilabel" or "regression"."""

    @abc.abstractmethod
    def gather_x(self, rows: Tensor) -> Tensor:
        """The inputs [n, ...] of rows [n] int64: floating, uint8 (images) or int64 (tokens)."""

    @abc.abstractmethod
    def gather_y(self, rows: Tensor) -> Tensor:
        """The targets of rows [n]: [n] int64, [n, C] bool, or [n] or [n, K] floating."""

    def gather_task(self, rows: Tensor) -> Tensor | None:
        """The task labels [n] int64 of rows [n]; None where all rows have the label of the experience."""
        return None

    def gather(self, rows: Tensor) -> dict[str, Tensor]:
        """The rows as a dict of x, y and, where rows have task labels of their own, task."""
        found = {"x": self.gather_x(rows), "y": self.gather_y(rows)}
        task = self.gather_task(rows)
        return found if task is None else found | {"task": task}

    def origin(self, rows: Tensor) -> Origin:
        """Which rows of which data the rows [n] are, so that one is known again in another source.

        They are rows of its targets, the field `y`, or of the first of its tensors that has a row for each and is shared by all
        lanes; else of the source itself. Of a source that is made of others it is not known, unless it is a view.
        """
        fields: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        own = fields.get("y")
        if not isinstance(own, Tensor):
            leaves = zip(tree.leaves(self), self.ranks, strict=True)
            own = next((leaf for leaf, rank in leaves if rank is None and leaf.ndim and len(leaf) == len(self)), self)
        return recalled(self, rows) or rows_of(own, rows, not inner_sources(self), fields.get("x"))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != REMEMBERED}

    @property
    def on_disk(self) -> bool:
        """Whether it gathers inputs from a disk, so that it is worth while to say which come next (`read_ahead`)."""
        return any(inner.on_disk for inner in inner_sources(self).values())

    def read_ahead(self, rows: Tensor) -> None:
        """Begin to read rows [...] that will be gathered soon; of what is in memory, nothing."""
        for inner in inner_sources(self).values():
            inner.read_ahead(rows)

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return tree.leaves(self)[0].device

    @property
    def ranks(self) -> list[int | None]:
        """For each leaf, the number of dimensions that it has in one lane; None for those that all lanes share."""
        found = list[int | None]()
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # every source is a state
            value = getattr(self, field.name)
            if isinstance(value, Source):
                found += value.ranks
            elif value is not None and not field.metadata.get("static"):
                found += [field.metadata.get("rank")] * len(tree.leaves(value))
        return found


def stack(sources: Sequence[Source], rule: str = "experiences: lanes must share one source") -> Source:
    """One source for several lanes: what they share is shared still, and their parameters are stacked along a new first axis.

    Raises ValueError, saying what differs, for sources that differ in anything but their parameters.

    rule: what the message says that they must be.
    """
    first = sources[0]
    if all(source is first for source in sources):
        return first
    structure = tree.flatten(first)[1]
    for other in sources:
        if tree.flatten(other)[1] != structure:
            raise ValueError(
                f"{rule}, but {_difference(first, other)}; make their streams by the same function, from the same datasets."
            )
    leaves = []
    for (path, leaf), rank, *others in zip(tree.items(first), first.ranks, *(tree.leaves(s) for s in sources[1:]), strict=True):
        if rank is None and not all(_is_same(leaf, other) for other in others):
            raise ValueError(f"{rule}, but their {path!r} is not one tensor; make their streams from the same datasets.")
        leaves.append(leaf if rank is None else torch.stack([leaf, *others]))
    return _with_shared(tree.unflatten(structure, leaves), first)


def _with_shared(made: Source, like: Source) -> Source:
    """A source made from the leaves of another, with the sources in it that did not change: they know their digests."""
    changes = {}
    for name, inner in inner_sources(like).items():
        own = getattr(made, name)
        changes[name] = inner if same(own, inner) else _with_shared(own, inner)
    return tree.replace(made, **changes)


def inner_sources(source: Source) -> dict[str, Source]:
    """The sources that a source is made of, such as the one that a view shows, by field."""
    values = {field.name: getattr(source, field.name) for field in dataclasses.fields(source)}  # type: ignore[arg-type]
    return {name: value for name, value in values.items() if isinstance(value, Source)}


def _difference(one: Any, other: Any, name: str = "source") -> str:
    """How the structures of two sources differ, in words."""
    if type(one) is not type(other):
        return f"one {name} is a {type(one).__name__}, another a {type(other).__name__}"
    for field in dataclasses.fields(one):
        pair = [getattr(source, field.name) for source in (one, other)]
        if isinstance(pair[0], Source) and tree.flatten(pair[0])[1] != tree.flatten(pair[1])[1]:
            return _difference(pair[0], pair[1], f"{name}.{field.name}")
        if field.metadata.get("static") and pair[0] != pair[1]:
            return f"{name}.{field.name} is {describe(pair[0])} and {describe(pair[1])}"
    return f"the {type(one).__name__} of one has fields that another lacks"


def same(one: Source, other: Source) -> bool:
    """Whether two sources give the same rows, being made of the same tensors in the same way; values are not looked at."""
    if one is other:
        return True
    leaves, structure = tree.flatten(one)
    others, of_other = tree.flatten(other)
    return structure == of_other and all(map(_is_same, leaves, others))


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are one, or views of the same memory."""
    if one is other:
        return True
    alike = (one.shape, one.stride(), one.dtype, one.device) == (other.shape, other.stride(), other.dtype, other.device)
    return alike and one.numel() > 0 and one.data_ptr() == other.data_ptr()

"""Steps that a compiled leaf may take by itself, one after the other, without Python in between.

A loop over minibatches, or over the experiences of a stream, offers its next steps to the leaf that it calls, as `Batches`. A leaf
that has an `advance` may take as many of them as it can in about half a second, and returns how many it took; the loop takes a
step itself where it took none. So the Python loop keeps its meaning, and progress, checkpoints and Ctrl-C are between two pieces.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from cl_func import tree
from cl_func.core.kinds import Update
from cl_func.core.reading import on_disk
from cl_func.experiences import Experience

MOST = 1024  # experiences that are made before the first of them is trained on
SECONDS = 0.5  # after which a leaf returns: progress is shown, and Ctrl-C is heard


class Batches(Protocol):
    """Experiences of one structure and of equal shapes, one for each of the next steps."""

    @property
    def first(self) -> Any: ...  # the experience of the first of these steps

    # The addresses of some leaves of `first` in each of the n steps, [n, number of leaves] int64, where `leaves` are all leaves of
    # `first` and `copied` the positions of those; the others must stay where they are. n >= 1 may be less than all steps.
    def addresses(self, leaves: Sequence[Tensor], copied: Sequence[int]) -> Tensor: ...

    # The first n of these steps.
    def up_to(self, n: int) -> Self: ...


def taken(update: Update, state: Any, batches: Batches) -> int:
    """How many of the next steps an Update has taken by itself, overwriting the state; 0 for one that cannot."""
    advance = getattr(update, "advance", None)
    done: int = 0 if advance is None else advance(state, batches, SECONDS)
    return done


@dataclasses.dataclass(frozen=True)
class Slices:
    """The next minibatches of an experience: `count` times `size` rows."""

    exp: Experience
    rows: Tensor  # [..., at least start + count * size]
    valid: Tensor
    start: int
    size: int
    count: int

    @property
    def first(self) -> Experience:
        end = self.start + self.size
        return self.exp.take(self.rows[..., self.start : end], self.valid[..., self.start : end])

    def addresses(self, leaves: Sequence[Tensor], copied: Sequence[int]) -> Tensor:
        begin = {self.rows[..., self.start :].data_ptr(): 8 * self.size, self.valid[..., self.start :].data_ptr(): self.size}
        base = [leaves[i].data_ptr() for i in copied]
        moves = torch.tensor([begin.get(address, 0) for address in base])
        return torch.tensor(base) + torch.arange(self.count)[:, None] * moves

    def up_to(self, n: int) -> Slices:
        return dataclasses.replace(self, count=min(n, self.count))


@dataclasses.dataclass(frozen=True)
class Listed:
    """The next experiences of a stream."""

    experiences: Sequence[Any]

    @property
    def first(self) -> Any:
        return self.experiences[0]

    def addresses(self, leaves: Sequence[Tensor], copied: Sequence[int]) -> Tensor:
        structure = tree.flatten(self.first)[1]
        stay = {*range(len(leaves))} - {*copied}
        table = list[list[int]]()
        for exp in self.experiences:
            others = _leaves_beside(exp, self.first, leaves) or _leaves_like(exp, structure)
            if others is None or not all(map(_alike, others, leaves)):
                break
            found = [x.data_ptr() for x in others]
            if any(found[i] != leaves[i].data_ptr() for i in stay):
                break
            table.append([found[i] for i in copied])
        return torch.tensor(table)

    def up_to(self, n: int) -> Listed:
        return Listed(self.experiences[:n])


class Ahead:
    """The experiences of a stream in order, several at once for an Update that can take them by itself.

    They are asked for one by one, until the Update has taken one by itself; then, of a sequence, some are made ahead.
    """

    def __init__(self, update: Update, experiences: Iterable[Any], may_be_early: bool) -> None:
        self.update = update if hasattr(update, "advance") else None
        self.experiences, self.most = iter(experiences), MOST if may_be_early else 1
        self.size = 1
        self.waiting = collections.deque[Any]()

    def pop(self) -> Any:
        """The next experience. Raises StopIteration after the last."""
        return self.waiting.popleft() if self.waiting else next(self.experiences)

    def advance(self, state: Any, most: int) -> tuple[int, Any]:
        """Let the Update take up to `most` experiences, overwriting the state: how many it took, and the last of them."""
        if self.update is None or most < 1:
            return 0, None
        n = min(self.size, most)
        self.waiting.extend(itertools.islice(self.experiences, max(0, n - len(self.waiting))))
        experiences = list(itertools.islice(self.waiting, n))
        if not experiences or on_disk(experiences[0]):
            return 0, None
        done = taken(self.update, state, Listed(experiences))
        self.size = min(2 * self.size, self.most) if done == self.size else max(done, 1)
        for _ in range(done):
            self.waiting.popleft()
        return done, experiences[done - 1]


def _leaves_beside(exp: Any, first: Any, leaves: Sequence[Tensor]) -> list[Tensor] | None:
    """The leaves of an experience that has the source of another one, whose leaves are given; None if it has not."""
    if type(exp) is not Experience or type(first) is not Experience or exp.source is not first.source:
        return None
    return [*leaves[:-5], exp.rows, exp.valid, exp.task, exp.classes, exp.index]


def _leaves_like(exp: Any, structure: Any) -> list[Tensor] | None:
    """The leaves of an experience of a structure; None if it is of another."""
    leaves, found = tree.flatten(exp)
    return leaves if found == structure else None


def _alike(x: Tensor, y: Tensor) -> bool:
    return x is y or (x.size() == y.size() and x.stride() == y.stride() and x.dtype == y.dtype and x.is_cpu)

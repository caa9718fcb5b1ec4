"""What all replay memories have in common: three attributes, and two functions of one form.

    data, occupied, capacity                         the attributes, of a `Memory`
    add(memory, key, rows, valid, ...) -> memory     offer n rows, those `valid` [n] bool, in their order
    draw(memory, key, n) -> (rows, valid)            n rows; those `valid` [n] bool are rows of the memory

What else an `add` needs, such as the labels, follows these four arguments. An `add` that draws nothing takes the key all the same,
so that code can treat all memories alike. A memory of one's own needs no base class: `draws`, the losses that replay and `rehearse`
take whatever has the attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from cl_func import tree
from cl_func.experiences import Experience
from cl_func.tree import PyTree

Draw = Callable[[Any, Tensor, int], tuple[Any, Tensor]]  # (memory, key, n) -> (rows, valid); it may be for one class of memories
Fields = Callable[[Any, Experience], PyTree]  # (state, exp) -> what is stored of the n rows of exp, a tree of [n, ...]
RowLosses = Callable[[Tensor, Tensor], Tensor]  # (outputs [n, K], y [n, ...]) -> the loss of each row [n]


@runtime_checkable
class Memory(Protocol):
    """A replay memory: rows of fixed number, of which some are occupied.

    `isinstance(x, cl.memory.Memory)` holds for whatever has the three attributes; it evaluates them, so it is for tests and scripts
    and not for what runs at every step.
    """

    @property
    def data(self) -> PyTree: ...  # the stored rows, a tree of [capacity, ...]

    @property
    def occupied(self) -> Tensor: ...  # which rows hold something, [capacity] bool; the others are never drawn

    @property
    def capacity(self) -> int: ...  # how many rows there is room for


class Packed:
    """The base of memories whose occupied rows are the first `filled` ones, so that a draw need not search for them."""

    if TYPE_CHECKING:  # fields of some classes, properties of others: Any, since no type is both
        data: Any
        filled: Any

    @property
    def capacity(self) -> int:
        """How many rows there is room for."""
        return tree.leaves(self.data)[0].shape[0]

    @property
    def occupied(self) -> Tensor:
        """Which rows are filled, [capacity] bool."""
        return torch.arange(self.capacity, device=self.filled.device) < self.filled

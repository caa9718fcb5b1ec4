"""Which rows of which data the rows of a source are, whatever is made of them.

What separates rows, such as a validation part, has to know a row again: permuted, gathered into memory, or joined with others.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

REMEMBERED = "_origin"  # beside the fields of a source: it is no part of what the source gives, and is not pickled with it


class Owner(NamedTuple):
    """What rows belong to, such as the targets of a Dataset."""

    key: Hashable  # what tells it from others
    kept: Any  # what has to stay alive, so that no other gets this key


class Origin(NamedTuple):
    """Where n rows come from: row i is row `numbers[i]` of `owners[which[i]]`."""

    owners: tuple[Owner, ...]  # each of them once
    which: Tensor  # [n] int64
    numbers: Tensor  # [n] int64
    known: bool = True  # False: rows of other owners may be the same ones

    def take(self, rows: Tensor) -> Origin:
        """The origin of some of the rows."""
        return self._replace(which=self.which[rows], numbers=self.numbers[rows])


def rows_of(data: Any, rows: Tensor, known: bool = True, inputs: Any = None) -> Origin:
    """The origin of rows [n] of data that are one owner, such as targets.

    inputs: beside them. Where both are the same slices of larger tensors, the rows are those of these, so that slices may overlap.
    """
    owner, first = Owner(id(data), data), 0
    if _is_slice(data) and isinstance(inputs, Tensor) and inputs.is_contiguous():
        (first, of), (place, beside) = _place(data), _place(inputs)
        owner = Owner((of, beside, place - first), (data, inputs))
    return Origin((owner,), torch.zeros_like(rows[:1]).expand(len(rows)), rows + first, known)


def _is_slice(data: Any) -> bool:
    """Whether data are a tensor of consecutive rows in the memory of a larger one."""
    if not isinstance(data, Tensor) or not data.is_contiguous() or not data.numel():
        return False
    return data.untyped_storage().nbytes() > data.numel() * data.itemsize


def _place(data: Tensor) -> tuple[int, Hashable]:
    """Which row of its memory a tensor begins with, and what tells that memory, divided into rows like these, from others."""
    first, rest = divmod(int(data.storage_offset()), max(data.shape[1:].numel(), 1))
    return first, (data.untyped_storage().data_ptr(), str(data.device), data.dtype, data.shape[1:], rest)


def concatenated(parts: Sequence[Origin]) -> Origin:
    """The origin of the rows of several parts, one part after the other."""
    owners = {owner.key: owner for part in parts for owner in part.owners}
    order = {key: place for place, key in enumerate(owners)}
    which = [torch.tensor([order[owner.key] for owner in part.owners], device=part.which.device)[part.which] for part in parts]
    numbers = torch.cat([part.numbers for part in parts])
    return Origin(tuple(owners.values()), torch.cat(which), numbers, all(part.known for part in parts))


def remember(source: Any, origin: Origin) -> None:
    """Let a source that holds copies of rows know where they come from."""
    object.__setattr__(source, REMEMBERED, origin)


def recalled(source: Any, rows: Tensor) -> Origin | None:
    """The origin of rows [n] of a source that was told, and has not forgotten it: what is made from its leaves has."""
    origin: Origin | None = source.__dict__.get(REMEMBERED)
    return None if origin is None else origin.take(rows)

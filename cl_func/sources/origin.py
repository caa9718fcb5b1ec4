"""Which rows of which data the rows of a source are, whatever is made of them.

What separates rows, such as a validation part, has to know a row again: permuted, gathered into memory, or joined with others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_REMEMBERED = "_origin"  # beside the fields of a source: it is no part of what the source gives


class Origin(NamedTuple):
    """Where n rows come from: row i is row `numbers[i]` of `owners[which[i]]`."""

    owners: tuple[Any, ...]  # what the rows belong to, such as the targets of a Dataset; each of them once
    which: Tensor  # [n] int64
    numbers: Tensor  # [n] int64
    known: bool = True  # False: rows of other owners may be the same ones

    def take(self, rows: Tensor) -> Origin:
        """The origin of some of the rows."""
        return self._replace(which=self.which[rows], numbers=self.numbers[rows])


def rows_of(owner: Any, rows: Tensor, known: bool = True) -> Origin:
    """The origin of rows [n] that belong to one owner; those of a tensor are numbered by their place in its memory."""
    numbers = rows
    if _has_places(owner):
        numbers = (owner.storage_offset() + rows * owner.stride(0)) // max(owner.shape[1:].numel(), 1)
    return Origin((owner,), torch.zeros_like(rows[:1]).expand(len(rows)), numbers, known)


def identity(owner: Any) -> Any:
    """What tells an owner from others: tensors in the same memory are one, so that slices of one tensor may overlap."""
    if _has_places(owner):
        return owner.untyped_storage().data_ptr(), owner.dtype, owner.shape[1:], str(owner.device)
    return id(owner)


def _has_places(owner: Any) -> bool:
    """Whether it is a tensor whose rows lie at places of their own, as those of an expanded one do not."""
    return isinstance(owner, Tensor) and owner.ndim > 0 and owner.numel() > 0 and owner.stride(0) != 0


def concatenated(parts: Sequence[Origin]) -> Origin:
    """The origin of the rows of several parts, one part after the other."""
    owners = {identity(owner): owner for part in parts for owner in part.owners}
    order = {key: place for place, key in enumerate(owners)}
    which = [
        torch.tensor([order[identity(owner)] for owner in part.owners], device=part.which.device)[part.which] for part in parts
    ]
    numbers = torch.cat([part.numbers for part in parts])
    return Origin(tuple(owners.values()), torch.cat(which), numbers, all(part.known for part in parts))


def remember(source: Any, origin: Origin) -> None:
    """Let a source that holds copies of rows know where they come from."""
    object.__setattr__(source, _REMEMBERED, origin)


def recalled(source: Any, rows: Tensor) -> Origin | None:
    """The origin of rows [n] of a source that was told, and has not forgotten it: what is made from its leaves has."""
    origin: Origin | None = source.__dict__.get(_REMEMBERED)
    return None if origin is None else origin.take(rows)

"""Which calls of a program are recorded, on a GPU (`cuda_graphs.py`) as on the CPU (`native.py`): those whose addresses recur."""

from __future__ import annotations

import collections
from typing import Generic, TypeVar

Key = tuple[int, ...]  # the addresses of the inputs that a record reads and writes where they are
R = TypeVar("R")

COUNTED = 64  # keys whose calls are counted; with more, the addresses change with each call


class Records(Generic[R]):
    """The records of one program by their addresses, of which it keeps the last ones that were made.

    refused: whether no more are made, since the program cannot be recorded; set by who makes them.
    """

    def __init__(self, kept: int) -> None:
        self.kept, self.refused = kept, False
        self.calls = collections.Counter[Key]()
        self.made = collections.OrderedDict[Key, R]()

    def __len__(self) -> int:
        return len(self.made)

    def get(self, key: Key) -> R | None:
        """The record for some addresses, if there is one."""
        return self.made.get(key)

    def due(self, key: Key, calls: int) -> bool:
        """Count a call without a record: whether it is to be recorded, since more than so many came with these addresses."""
        if self.refused:
            return False
        if len(self.calls) > COUNTED:
            self.calls.clear()
        self.calls[key] += 1
        return self.calls[key] > calls

    def put(self, key: Key, record: R) -> None:
        """Keep a record, and let the oldest go if there are too many."""
        self.made[key] = record
        if len(self.made) > self.kept:
            self.made.popitem(last=False)

"""The tap of a sweep: one call for each run and entry, with the labels of the run, wherever the runs are.

Runs that share a chunk give one entry with lanes, which is taken apart. Chunks on threads of this process call the tap as they go,
one at a time; those on an executor send their entries back with their histories, and the tap is called here when a chunk is done.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

from cl_func import tree
from cl_func.core import traces
from cl_func.core.tapping import Tap, call_tap
from cl_func.tree import PyTree

Labels = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class LaneTap:
    """The tap of a chunk: calls that of the sweep for each of its runs."""

    tap: Tap
    labels: Sequence[Labels]
    lanes: int

    def resume(self, time: int) -> int:
        """None of the entries that there are have been written: the tap of the sweep has dropped them."""
        return 0

    def __call__(self, time: int, entry: PyTree) -> None:
        for i, labels in enumerate(self.labels):
            self.tap(time, entry if self.lanes == 1 else traces.lane(entry, i), labels)

    def finish(self) -> None:
        """Say that these runs are over."""
        for labels in self.labels:
            finish(self.tap, labels)


class SharedTap:
    """The tap of a sweep, for several threads: it is called by one of them at a time."""

    def __init__(self, tap: Tap) -> None:
        self.tap, self.lock = tap, threading.Lock()

    def __call__(self, time: int, entry: PyTree, labels: Labels) -> None:
        with self.lock:
            call_tap(self.tap, time, entry, labels)

    def finish(self, labels: Labels) -> None:
        """Say that a run is over."""
        with self.lock:
            finish(self.tap, labels)


class Entries:
    """A tap that keeps what it is given, on the CPU, until it can be given to another one."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, PyTree, Labels]] = []

    def __call__(self, time: int, entry: PyTree, labels: Labels) -> None:
        self.calls.append((time, tree.to(entry, "cpu"), labels))

    def give(self, tap: Tap) -> None:
        """Give all of it to a tap, run by run, and say that the runs are over."""
        for labels in {str(labels): labels for _, _, labels in self.calls}.values():
            for time, entry, of in self.calls:
                if of == labels:
                    call_tap(tap, time, entry, of)
            finish(tap, labels)


def finish(tap: Tap, labels: Labels) -> None:
    """Tell a tap that a run is over, if it wants to know."""
    method = getattr(tap, "finish", None)
    if method is not None:
        method(labels)

"""What `scan` gives to a tap: each entry of the history once, in order, in a run that may have been resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from optree import PyTreeSpec
from torch import Tensor

from cl_func import tree
from cl_func.core import traces

# Called with (time, entry), in a sweep also with the labels of the run. It may have methods `resume(time)` and `finish()`.
Tap = Callable[..., Any]


class TapFeed:
    """Gives the entries of a history to a tap; `history` holds the leaves of each entry."""

    def __init__(self, tap: Tap, history: Sequence[Sequence[Tensor]]) -> None:
        self.tap, self.history, self.given = tap, history, 0

    def resume(self) -> None:
        """Begin after the entries that the history has already, or with those of them that the tap says it lacks.

        `resume(time)` is told how many there are; it may return how many of them it holds.
        """
        self.given = len(self.history)
        resume = getattr(self.tap, "resume", None)
        held = None if resume is None else resume(self.given)
        if held is not None:
            self.given = min(held, self.given)

    def feed(self, structure: PyTreeSpec) -> None:
        """Give what has not been given; structure: of an entry."""
        while self.given < len(self.history):
            before = tree.unflatten(structure, self.history[self.given - 1]) if self.given else None
            call_tap(self.tap, self.given, traces.since(tree.unflatten(structure, self.history[self.given]), before))
            self.given += 1

    def finish(self) -> None:
        """Say that the run is over."""
        finish = getattr(self.tap, "finish", None)
        if finish is not None:
            finish()


class TapError(RuntimeError):
    """A tap raised an exception."""


def call_tap(tap: Tap, time: int, entry: Any, *labels: Any) -> None:
    """Call a tap; what it raises becomes a TapError that says how to go on without it."""
    try:
        tap(time, entry, *labels)
    except TapError:  # of the tap of a sweep, which a tap for its chunk has called
        raise
    except Exception as error:
        of = f" of the run with {labels[0]}" if labels else ""
        raise TapError(
            f"tap: {tap!r} raised {type(error).__name__} at entry {time} of the history{of}: {error}. "
            "To go on without it, use cl.taps.warn(tap)."
        ) from error

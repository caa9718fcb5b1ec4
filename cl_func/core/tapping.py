"""What `scan` gives to a tap: each entry of the history once, in order, in a run that may have been resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optree import PyTreeSpec
from torch import Tensor

from cl_func import tree
from cl_func.core import traces

# Called with (time, entry), in a sweep also with the labels of the run. It may have methods `resume(time)` and `finish()`, and in
# place of the former `reopen(saved, runs)`.
Tap = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Saved:
    """What a tap may know of the folder of a run, or of a sweep, that is begun or resumed there."""

    folder: Path
    count: int = 0  # entries of the saved history that do not come again; 0 in a sweep, where all entries of its runs come
    entries: Callable[[], Sequence[Any]] = tuple  # these, as the tap has been given them


def reopen(tap: Tap, saved: Saved, runs: Sequence[Any] = (None,)) -> int | None:
    """Tell a tap that the entries from `saved.count` on will come, of each of the runs with some labels; None: not of a sweep.

    It may return how many of those before it holds.
    """
    method = getattr(tap, "reopen", None)
    if method is not None:
        held: int | None = method(saved, runs)
        return held
    method = getattr(tap, "resume", None)
    if method is None:
        return None
    found = [method(saved.count, *([] if labels is None else [labels])) for labels in runs]
    return found[0] if found else None


class TapFeed:
    """Gives the entries of a history to a tap; `history` holds the leaves of each entry."""

    def __init__(self, tap: Tap, history: Sequence[Sequence[Tensor]]) -> None:
        self.tap, self.history, self.given = tap, history, 0

    def resume(self, folder: Path, structure: Callable[[], PyTreeSpec]) -> None:
        """Begin after the entries that the history has already, or with those of them that the tap says it lacks.

        folder: where the run is kept. structure: gives that of an entry.
        """
        count = len(self.history)
        held = reopen(self.tap, Saved(folder, count, lambda: [self._entry(time, structure()) for time in range(count)]))
        self.given = count if held is None else min(held, count)

    def _entry(self, time: int, structure: PyTreeSpec) -> Any:
        before = tree.unflatten(structure, self.history[time - 1]) if time else None
        return traces.since(tree.unflatten(structure, self.history[time]), before)

    def feed(self, structure: PyTreeSpec) -> None:
        """Give what has not been given; structure: of an entry."""
        while self.given < len(self.history):
            call_tap(self.tap, self.given, self._entry(self.given, structure))
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

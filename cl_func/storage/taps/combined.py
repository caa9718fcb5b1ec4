"""Taps made of taps: several as one, and one whose exceptions become warnings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from cl_func import signatures, user_warnings
from cl_func.core.tapping import Saved, Tap, reopen
from cl_func.tree import PyTree


@dataclasses.dataclass(frozen=True)
class Warned:
    """A tap whose exceptions become warnings; made by `warn`."""

    tap: Tap

    def reopen(self, saved: Saved, runs: Sequence[Any]) -> int | None:
        """Reopen the tap."""
        held: int | None = self._try(partial(reopen, self.tap, saved, runs))
        return held

    def finish(self, *labels: Any) -> None:
        """Finish the tap."""
        self._try(partial(_finish, self.tap, *labels))

    def __call__(self, time: int, entry: PyTree, *labels: Any) -> None:
        self._try(partial(self.tap, time, entry, *labels))

    def _try(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            user_warnings.warn(f"tap: {self.tap!r} raised {type(error).__name__}: {error}; the run goes on.")
            return None


def warn(tap: Tap) -> Warned:
    """The same tap, with a warning where it raises an exception."""
    return Warned(signatures.function("tap", tap, 2, "a function (time, entry)", most=3))


def several(*taps: Tap) -> Several:
    """Several taps as one, called in order."""
    return Several(tuple(signatures.function("taps", tap, 2, "functions (time, entry)", most=3) for tap in taps))


@dataclasses.dataclass(frozen=True)
class Several:
    """Several taps; made by `several`."""

    taps: tuple[Tap, ...]
    held: list[int] = dataclasses.field(default_factory=list, compare=False, repr=False)  # of each, entries of a resumed run

    def __reduce__(self) -> Any:
        return type(self), (self.taps,)

    def reopen(self, saved: Saved, runs: Sequence[Any]) -> int:
        """Reopen each; what one lacks comes again, and not to the others."""
        found = [reopen(tap, saved, runs) for tap in self.taps]
        self.held[:] = [saved.count if held is None else held for held in found]
        return min(self.held, default=saved.count)

    def finish(self, *labels: Any) -> None:
        """Finish each."""
        for tap in self.taps:
            _finish(tap, *labels)
        self.held.clear()

    def __call__(self, time: int, entry: PyTree, *labels: Any) -> None:
        if time >= max(self.held, default=0):
            self.held.clear()  # another run may follow
        for tap, held in zip(self.taps, self.held or [0] * len(self.taps), strict=True):
            if time >= held:
                tap(time, entry, *labels)


def _finish(tap: Tap, *labels: Any) -> None:
    method = getattr(tap, "finish", None)
    if method is not None:
        method(*labels)

"""Taps made of taps: several as one, and one whose exceptions become warnings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from cl_func import signatures, user_warnings
from cl_func.core.tapping import Tap
from cl_func.tree import PyTree


@dataclasses.dataclass(frozen=True)
class Warned:
    """A tap whose exceptions become warnings; made by `warn`."""

    tap: Tap

    def resume(self, time: int, *labels: Any) -> None:
        """Resume the tap."""
        self._try(partial(_method, self.tap, "resume", time, *labels))

    def finish(self, *labels: Any) -> None:
        """Finish the tap."""
        self._try(partial(_method, self.tap, "finish", *labels))

    def __call__(self, time: int, entry: PyTree, *labels: Any) -> None:
        self._try(partial(self.tap, time, entry, *labels))

    def _try(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:
            user_warnings.warn(f"tap: {self.tap!r} raised {type(error).__name__}: {error}; the run goes on.")


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

    def resume(self, time: int, *labels: Any) -> None:
        """Resume each."""
        for tap in self.taps:
            _method(tap, "resume", time, *labels)

    def finish(self, *labels: Any) -> None:
        """Finish each."""
        for tap in self.taps:
            _method(tap, "finish", *labels)

    def __call__(self, time: int, entry: PyTree, *labels: Any) -> None:
        for tap in self.taps:
            tap(time, entry, *labels)


def _method(tap: Tap, name: str, *arguments: Any) -> None:
    method = getattr(tap, name, None)
    if method is not None:
        method(*arguments)

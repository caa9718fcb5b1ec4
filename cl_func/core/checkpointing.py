"""What `scan` needs to save a run and to resume it; `cl.Checkpoint` provides it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from cl_func.core.kinds import Probe, S, Update


class RunProgress(Protocol):
    """How far a run has come."""

    @property
    def seen(self) -> int: ...  # completed experiences

    @property
    def finished(self) -> bool: ...  # whether the stream had ended


class Checkpointer(Protocol):
    """Saves one run as it proceeds."""

    @property
    def folder(self) -> Path: ...  # where it is saved

    @property
    def progress(self) -> RunProgress: ...

    @property
    def history(self) -> list[list[Tensor]]: ...  # the leaves of each entry

    @property
    def columns(self) -> list[str]: ...  # the paths of these leaves

    @property
    def changed(self) -> bool: ...  # whether the saved run differs from this one, which only gave a warning

    # The state to continue from: the saved one, or `start` if nothing has been saved.
    def resume(self, start: S) -> S: ...

    # The update, with each of its functions counted and skipped if it had been called before the interruption.
    def instrument(self, update: Update) -> Update: ...

    # The last experience already seen, or None; an iterator over the rest; whether there are any.
    def remaining(self, stream: Iterable[Any]) -> tuple[Any, Iterator[Any], bool]: ...

    # Check that the saved history has as many entries as it must have by now.
    def check_history_length(self, entries: int) -> None: ...

    # Check that a new entry can be stacked with the saved ones.
    def check_entry(self, entry: Any) -> None: ...

    # Called before the update of an experience.
    def on_experience_start(self, exp: Any) -> None: ...

    # Called after the update of an experience, before it is measured.
    def on_update_end(self) -> None: ...

    # The number of experiences that may now be taken at once, without a call of `on_experience_start`; 0 on one seen in part.
    def undisturbed(self) -> int: ...

    # Called when n experiences are done, and the last of them measured.
    def on_experiences_end(self, state: Any, n: int) -> None: ...

    # Called when the run is over.
    def finish(self, state: Any) -> None: ...


class CheckpointConfig(Protocol):
    """Where and how often runs are saved: a `cl.Checkpoint`."""

    # The checkpointer of the run that these arguments of `scan` describe.
    def open_run(
        self, update: Update, start: Any, stream: Iterable[Any], probe: Probe | None, every: int, stop: Any = None
    ) -> AbstractContextManager[Checkpointer]: ...

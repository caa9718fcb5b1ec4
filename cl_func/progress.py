"""The progress of long work: a bar if tqdm is installed, else a line from time to time."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from typing import Protocol

from cl_func import checks

LINES = 10  # without tqdm: how many lines are printed, evenly over the work


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook; that ipykernel was imported does not mean that."""
    found = sys.modules.get("ipykernel.kernelapp")
    return found is not None and bool(found.IPKernelApp.initialized())


def is_shown(progress: bool | None) -> bool:
    """Whether to show progress; None: where somebody looks, in a terminal or a notebook."""
    return (in_notebook() or sys.stderr.isatty()) if progress is None else progress


class ProgressBar:
    """Counts the parts done, out of a total if it is known; may be updated from any thread.

    shown: whether to show it; or the bar of longer work, of which this is a piece and which it moves.
    label: a few words on how the work is done. compiling: the label until more than `warmup` parts are done, since they are held up
    by compilation. unit: what the parts are, in the plural. done: how many were done before.
    """

    def __init__(
        self,
        shown: bool | SharedBar,
        total: int | None,
        label: str,
        compiling: str | None = None,
        warmup: int = 0,
        unit: str = "probes",
        done: int = 0,
    ) -> None:
        self.done, self.label, self.warmup, self.lock = 0, label, warmup, threading.Lock()
        self.compiling = compiling is not None
        words = label if compiling is None else compiling
        self.bar: _Bar | None = None
        if isinstance(shown, SharedBar):
            self.bar = _Piece(shown, words)
        elif shown:
            self.bar = _make_bar(total, words, unit, done)

    def update(self, n: int) -> None:
        """Count n more parts."""
        if self.bar is None:
            return
        with self.lock:
            self.done += n
            if self.compiling and self.done > self.warmup:
                self.compiling = False
                self.bar.set_description(self.label)
            self.bar.update(n)

    def close(self) -> None:
        """End the bar as it is."""
        if self.bar is not None:
            self.bar.close()


class SharedBar:
    """One bar over several pieces of work, done one after the other, each of which counts its parts with a `ProgressBar`.

    total: the parts of all pieces, as far as is known. A piece that has fewer or more parts than were said takes its place all the
    same, so that the bar neither goes back nor ends early.
    """

    def __init__(self, shown: bool, total: int, label: str, unit: str = "probes") -> None:
        self.bar = _make_bar(total, label, unit, 0) if shown else None
        self.label, self.done, self.end, self.lock = label, 0, 0, threading.Lock()

    def begin(self, label: str, n: int) -> None:
        """Begin a piece of n parts; the one before is over."""
        self._move(self.end)
        self.end += n
        self.describe(label)

    def describe(self, label: str) -> None:
        """Say what is being done."""
        self.label = label
        if self.bar is not None:
            self.bar.set_description(label)

    def update(self, n: int) -> None:
        """Count n more parts of the piece."""
        self._move(min(self.done + n, self.end))

    def _move(self, done: int) -> None:
        with self.lock:
            if self.bar is not None and done > self.done:
                self.bar.update(done - self.done)
            self.done = max(done, self.done)

    def close(self, *, complete: bool = True) -> None:
        """End the bar, at the end of the last piece if that is complete."""
        if complete:
            self._move(self.end)
        if self.bar is not None:
            self.bar.close()


class _Piece:
    """What a `ProgressBar` moves that is a piece of longer work."""

    def __init__(self, shared: SharedBar, words: str) -> None:
        self.shared, self.name = shared, shared.label
        self.set_description(words)

    def set_description(self, words: str, /) -> None:
        if self.shared.bar is not None:
            self.shared.bar.set_description(f"{self.name}, {words}")

    def update(self, n: int, /) -> None:
        self.shared.update(n)

    def close(self) -> None:
        """The longer work goes on."""


class _Bar(Protocol):
    """What a bar of tqdm can do, as far as it is used."""

    def set_description(self, label: str, /) -> None: ...

    def update(self, n: int, /) -> object: ...

    def close(self) -> None: ...


def _make_bar(total: int | None, label: str, unit: str, done: int) -> _Bar:
    try:
        with warnings.catch_warnings():
            # In a notebook without ipywidgets it warns, and has a bar of text all the same.
            warnings.filterwarnings("ignore", "IProgress not found")
            tqdm = checks.optional("tqdm.auto", "a progress bar", "progress").tqdm
    except ImportError as error:
        return _Lines(total, label, unit, done, str(error))
    bar: _Bar = tqdm(total=total, desc=label, unit=f" {unit}", initial=done)
    return bar


class _Lines:
    """A progress bar without tqdm: prints a line from time to time."""

    def __init__(self, total: int | None, label: str, unit: str, done: int, note: str) -> None:
        self.total, self.label, self.unit, self.n, self.start = total, label, unit, done, time.perf_counter()
        self.before = done  # what had been done when the time began
        self._print(f"({note})")

    def _print(self, rest: str) -> None:
        of = "" if self.total is None else f" of {self.total}"
        print(f"{self.label}: {self.n}{of} {self.unit} {rest}", file=sys.stderr, flush=True)

    def _times(self) -> str:
        elapsed = time.perf_counter() - self.start
        if self.total is None or self.n >= self.total:
            return f"after {elapsed:.0f} s"
        return f"after {elapsed:.0f} s, {elapsed / (self.n - self.before) * (self.total - self.n):.0f} s to go"

    def set_description(self, label: str) -> None:
        self.label = label

    def update(self, n: int) -> None:
        before, self.n = self.n, self.n + n
        # Evenly over the work; if nobody knows how much that is, each time that it has doubled.
        ticks = [part.bit_length() if self.total is None else part * LINES // self.total for part in (before, self.n)]
        if ticks[0] != ticks[1]:
            self._print(self._times())

    def close(self) -> None:
        if self.total is None or self.n < self.total:
            self._print(f"when it stopped, after {time.perf_counter() - self.start:.0f} s")

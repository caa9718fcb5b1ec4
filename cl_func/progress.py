"""The progress of long work: a bar if tqdm is installed, else a line from time to time."""

from __future__ import annotations

import sys
import threading
import time
from typing import Protocol

from cl_func import checks

LINES = 10  # without tqdm: how many lines are printed, evenly over the work


class ProgressBar:
    """Counts the parts done, out of a total; may be updated from any thread.

    label: a few words on how the work is done. compiling: the label until more than `warmup` parts are done, since they are held up
    by compilation. unit: what the parts are, in the plural.
    """

    def __init__(
        self, shown: bool, total: int, label: str, compiling: str | None = None, warmup: int = 0, unit: str = "probes"
    ) -> None:
        self.done, self.label, self.warmup, self.lock = 0, label, warmup, threading.Lock()
        self.compiling = compiling is not None
        self.bar = _make_bar(total, label if compiling is None else compiling, unit) if shown else None

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


class _Bar(Protocol):
    """What a bar of tqdm can do, as far as it is used."""

    def set_description(self, label: str, /) -> None: ...

    def update(self, n: int, /) -> object: ...

    def close(self) -> None: ...


def _make_bar(total: int, label: str, unit: str) -> _Bar:
    try:
        tqdm = checks.optional("tqdm.auto", "a progress bar", "progress").tqdm
    except ImportError as error:
        return _Lines(total, label, unit, str(error))
    bar: _Bar = tqdm(total=total, desc=label, unit=f" {unit}")
    return bar


class _Lines:
    """A progress bar without tqdm: prints a line from time to time."""

    def __init__(self, total: int, label: str, unit: str, note: str) -> None:
        self.total, self.label, self.unit, self.n, self.start = total, label, unit, 0, time.perf_counter()
        self._print(f"({note})")

    def _print(self, rest: str) -> None:
        print(f"{self.label}: {self.n} of {self.total} {self.unit} {rest}", file=sys.stderr, flush=True)

    def _times(self) -> str:
        elapsed = time.perf_counter() - self.start
        remaining = "" if self.n >= self.total else f", {elapsed / self.n * (self.total - self.n):.0f} s to go"
        return f"after {elapsed:.0f} s{remaining}"

    def set_description(self, label: str) -> None:
        self.label = label

    def update(self, n: int) -> None:
        before, self.n = self.n, self.n + n
        if before * LINES // self.total != self.n * LINES // self.total:
            self._print(self._times())

    def close(self) -> None:
        if self.n < self.total:
            self._print(f"when it stopped, after {time.perf_counter() - self.start:.0f} s")

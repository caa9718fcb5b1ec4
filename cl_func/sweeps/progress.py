"""What a sweep shows while it runs: a bar where tqdm is installed, else a line now and then; while it compiles, that it does."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from cl_func import checks

LINES = 10  # without tqdm: so many lines, evenly over the work


class ProgressBar:
    """Looks at runs that are done, of so many; from any thread.

    what: a word on how the sweep runs. compiling: while compiling what is shown instead, until more than `before` looks are done.
    """

    def __init__(self, shown: bool, total: int, what: str, compiling: str | None = None, before: int = 0) -> None:
        self.done, self.what, self.before, self.lock = 0, what, before, threading.Lock()
        self.compiling = compiling is not None
        self.bar = _shown(total, what if compiling is None else compiling) if shown else None

    def update(self, n: int) -> None:
        """So many more are done."""
        if self.bar is None:
            return
        with self.lock:
            self.done += n
            if self.compiling and self.done > self.before:
                self.compiling = False
                self.bar.set_description(self.what)
            self.bar.update(n)

    def close(self) -> None:
        """It has ended, with what is done by now."""
        if self.bar is not None:
            self.bar.close()


def _shown(total: int, what: str) -> Any:
    try:
        tqdm = checks.optional("tqdm.auto", "a progress bar", "progress").tqdm
    except ImportError as error:
        return _Lines(total, what, str(error))
    return tqdm(total=total, desc=what, unit="look")


class _Lines:
    """What there is of a progress bar without tqdm."""

    def __init__(self, total: int, what: str, note: str) -> None:
        self.total, self.what, self.n, self.start = total, what, 0, time.perf_counter()
        self._say(f"({note})")

    def _say(self, rest: str) -> None:
        print(f"{self.what}: {self.n} of {self.total} looks {rest}", file=sys.stderr, flush=True)

    def _times(self) -> str:
        passed = time.perf_counter() - self.start
        left = "" if self.n >= self.total else f", {passed / self.n * (self.total - self.n):.0f} s to go"
        return f"after {passed:.0f} s{left}"

    def set_description(self, what: str) -> None:
        self.what = what

    def update(self, n: int) -> None:
        before, self.n = self.n, self.n + n
        if before * LINES // self.total != self.n * LINES // self.total:
            self._say(self._times())

    def close(self) -> None:
        if self.n < self.total:
            self._say(f"when it stopped, after {time.perf_counter() - self.start:.0f} s")

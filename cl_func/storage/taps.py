"""Taps: where the history of a run goes while it grows. `cl.scan(..., tap=cl.taps.csv("run.csv"))`.

A tap is a function `(time, entry)`; time counts the entries of the history from 0, entry is the tree that the probe gave. In a
run with checkpoints a tap's method `resume(time)`, if it has one, is called first: entries from `time` on come (again), what was
written of them before is dropped, and so is half a line left by a crash. Each entry is one line, written at once. Without
checkpoints a file that is there already is not touched: ValueError.
"""

from __future__ import annotations

import csv as csv_format
import dataclasses
import io
import itertools
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cl_func import checks, tree
from cl_func.storage import files


def _path(value: str | Path) -> Path:
    if not isinstance(value, (str, Path)) or not str(value):
        raise TypeError(f"path: expected the path of a file, got {value!r}.")
    return Path(value)


def _columns(entry: Any) -> dict[str, float]:
    """The numbers of an entry by name: accuracy[0], accuracy[1], ...; in a vmapped run the first place is the lane."""
    found = {}
    for path, leaf in tree.items(entry):
        for place in itertools.product(*map(range, leaf.shape)):
            found[(path or "value") + "".join(f"[{i}]" for i in place)] = leaf[place].item()
    return found


@dataclasses.dataclass(frozen=True)
class Lines:
    """A tap that appends one line per entry to a text file; made by `csv` and `json_lines`."""

    path: Path
    line: Callable[[int, Any], str]
    head: Callable[[Any], str] | None
    time_of: Callable[[str], int]

    def resume(self, time: int) -> None:
        """Keep the whole lines of the entries before `time`."""
        if not self.path.exists():
            return
        lines = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        head = lines[:1] if self.head is not None and time else []
        entries = [line for line in lines[len(head) :] if (_time(line, self.time_of) or 0) < time][:time]
        if [_time(line, self.time_of) for line in entries] != list(range(time)):
            raise ValueError(f"tap: {self.path} does not hold the entries 0..{time - 1} that this run has behind it; move it away.")
        files.write_bytes(self.path, "".join([*head, *entries]).encode())

    def __call__(self, time: int, entry: Any) -> None:
        if time == 0 and self.path.exists() and self.path.stat().st_size:
            raise ValueError(f"tap: {self.path} holds another run; move it away or give this run a file of its own.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        begin = self.head(entry) if time == 0 and self.head is not None else ""
        with open(self.path, "a", newline="") as file:
            file.write(begin + self.line(time, entry))


def _time(line: str, time_of: Callable[[str], int]) -> int | None:
    try:
        return time_of(line)
    except (ValueError, KeyError, TypeError):
        return None


def csv(path: str | Path) -> Lines:
    """Write the history as CSV: a column `time`, then one per number, such as `accuracy[0]`; full precision."""

    def row(values: list[Any]) -> str:
        text = io.StringIO()
        csv_format.writer(text, lineterminator="\n").writerow(values)
        return text.getvalue()

    return Lines(
        _path(path),
        line=lambda time, entry: row([time, *(repr(v) for v in _columns(entry).values())]),
        head=lambda entry: row(["time", *_columns(entry)]),
        time_of=lambda line: int(line.partition(",")[0]),
    )


def json_lines(path: str | Path) -> Lines:
    """Write the history as one JSON object per line: {"time": 0, "accuracy": [...]}; NaN and Infinity as Python's json does."""
    return Lines(
        _path(path),
        line=lambda time, entry: json.dumps({"time": time, **{p or "value": v.tolist() for p, v in tree.items(entry)}}) + "\n",
        head=None,
        time_of=lambda line: int(json.loads(line)["time"]),
    )


@dataclasses.dataclass(frozen=True)
class TensorBoard:
    """A tap that writes scalars for TensorBoard; made by `tensorboard`."""

    folder: Path
    writers: list[Any] = dataclasses.field(default_factory=list, compare=False, repr=False)

    def resume(self, time: int) -> None:
        """Tell TensorBoard to forget what was written from `time` on."""
        from torch.utils.tensorboard import SummaryWriter

        self.writers[:] = [SummaryWriter(str(self.folder), purge_step=time)]

    def __call__(self, time: int, entry: Any) -> None:
        if not self.writers:
            self.resume(time)
        for name, value in _columns(entry).items():
            self.writers[0].add_scalar(name.replace("[", "/").replace("]", ""), value, time)
        self.writers[0].flush()


def tensorboard(folder: str | Path) -> TensorBoard:
    """Write every number of the history as a scalar for TensorBoard. Needs tensorboard: ImportError otherwise."""
    checks.optional("torch.utils.tensorboard", "cl.taps.tensorboard", "tensorboard")
    return TensorBoard(_path(folder))


@dataclasses.dataclass(frozen=True)
class Warned:
    """A tap whose failures are warnings; made by `warn`."""

    tap: Any

    def _tried(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            warnings.warn(f"tap: {self.tap!r} raised {type(error).__name__}: {error}; the run goes on.", stacklevel=4)

    def resume(self, time: int) -> None:
        """As of the tap."""
        if hasattr(self.tap, "resume"):
            self._tried(lambda: self.tap.resume(time))

    def __call__(self, time: int, entry: Any) -> None:
        self._tried(lambda: self.tap(time, entry))


def warn(tap: Callable[[int, Any], None]) -> Warned:
    """A tap that goes on with a warning where the given one raises."""
    if not callable(tap):
        raise TypeError(f"tap: expected a function (time, entry), got {tap!r}.")
    return Warned(tap)


def several(*taps: Callable[[int, Any], None]) -> Several:
    """One tap of several, called in order."""
    for tap in taps:
        if not callable(tap):
            raise TypeError(f"taps: expected functions (time, entry), got {tap!r}.")
    return Several(taps)


@dataclasses.dataclass(frozen=True)
class Several:
    """Several taps; made by `several`."""

    taps: tuple[Any, ...]

    def resume(self, time: int) -> None:
        """As of each."""
        for tap in self.taps:
            if hasattr(tap, "resume"):
                tap.resume(time)

    def __call__(self, time: int, entry: Any) -> None:
        for tap in self.taps:
            tap(time, entry)

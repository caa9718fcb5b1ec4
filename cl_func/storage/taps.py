"""Taps: where the history of a run is written while it grows. `cl.scan(..., tap=cl.taps.csv("run.csv"))`.

A tap is a function `(time, entry)`: `time` counts the entries of the history from 0, `entry` is the tree that the probe returned.
In a run with checkpoints a tap's method `resume(time)`, if it has one, is called first. It drops what was written of the entries
from `time` on, which will come again, and a line that a crash left incomplete. Each entry is one line, written at once. Without
checkpoints an existing file is left alone: ValueError.
"""

from __future__ import annotations

import csv as csv_format
import dataclasses
import io
import itertools
import json
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_func import checks, tree
from cl_func.storage import files
from cl_func.tree import PyTree

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Tap = Callable[[int, PyTree], Any]  # what it returns is not used


def _path(name: str, value: str | Path, what: str) -> Path:
    if not isinstance(value, (str, Path)) or not str(value):
        raise TypeError(f"{name}: expected the path of a {what}, got {value!r}.")
    return Path(value)


def _columns(entry: PyTree) -> dict[str, float]:
    """The numbers of an entry by name: accuracy[0], accuracy[1], ...; in a vmapped run the first index is the lane."""
    columns = {}
    for path, leaf in tree.items(entry):
        for index in itertools.product(*map(range, leaf.shape)):
            columns[(path or "value") + "".join(f"[{i}]" for i in index)] = leaf[index].item()
    return columns


@dataclasses.dataclass(frozen=True)
class Lines:
    """A tap that appends one line per entry to a text file; made by `csv` and `json_lines`."""

    path: Path
    line: Callable[[int, PyTree], str]  # (time, entry) -> the line of an entry
    head: Callable[[PyTree], str] | None  # (first entry) -> the line at the top of the file
    time_of: Callable[[str], int]  # the time of a line

    def resume(self, time: int) -> None:
        """Keep the complete lines of the entries before `time`."""
        if not self.path.exists():
            return
        lines = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        head = lines[:1] if self.head is not None and time else []
        entries = [line for line in lines[len(head) :] if (_time(line, self.time_of) or 0) < time][:time]
        if [_time(line, self.time_of) for line in entries] != list(range(time)):
            raise ValueError(f"tap: {self.path} does not hold the entries 0..{time - 1} that this run has made; move it away.")
        files.write_bytes(self.path, "".join([*head, *entries]).encode())

    def __call__(self, time: int, entry: PyTree) -> None:
        if time == 0 and self.path.exists() and self.path.stat().st_size:
            raise ValueError(f"tap: {self.path} holds another run; move it away or give this run a file of its own.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        head = self.head(entry) if time == 0 and self.head is not None else ""
        with open(self.path, "a", newline="") as file:
            file.write(head + self.line(time, entry))


def _time(line: str, time_of: Callable[[str], int]) -> int | None:
    try:
        return time_of(line)
    except (ValueError, KeyError, TypeError):
        return None


def csv(path: str | Path) -> Lines:
    """Write the history as CSV: a column `time`, then one per number, such as `accuracy[0]`; full precision."""
    return Lines(_path("path", path, "file"), line=_csv_line, head=_csv_head, time_of=_csv_time)


def _csv_line(time: int, entry: PyTree) -> str:
    return _csv_row([time, *map(repr, _columns(entry).values())])


def _csv_head(entry: PyTree) -> str:
    return _csv_row(["time", *_columns(entry)])


def _csv_time(line: str) -> int:
    return int(line.partition(",")[0])


def _csv_row(values: Sequence[int | str]) -> str:
    text = io.StringIO()
    csv_format.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def json_lines(path: str | Path) -> Lines:
    """Write the history as one JSON object per line: {"time": 0, "accuracy": [...]}; NaN and Infinity as Python's json does."""
    return Lines(_path("path", path, "file"), line=_json_line, head=None, time_of=_json_time)


def _json_line(time: int, entry: PyTree) -> str:
    return json.dumps({"time": time, **{name or "value": leaf.tolist() for name, leaf in tree.items(entry)}}) + "\n"


def _json_time(line: str) -> int:
    return int(json.loads(line)["time"])


@dataclasses.dataclass(frozen=True)
class TensorBoard:
    """A tap that writes scalars for TensorBoard; made by `tensorboard`."""

    folder: Path
    writers: list[SummaryWriter] = dataclasses.field(default_factory=list, compare=False, repr=False)

    def resume(self, time: int) -> None:
        """Make TensorBoard forget what was written from `time` on."""
        from torch.utils.tensorboard import SummaryWriter

        self.writers[:] = [SummaryWriter(str(self.folder), purge_step=time)]

    def __call__(self, time: int, entry: PyTree) -> None:
        if not self.writers:
            self.resume(time)
        for name, value in _columns(entry).items():
            self.writers[0].add_scalar(name.replace("[", "/").replace("]", ""), value, time)
        self.writers[0].flush()


def tensorboard(folder: str | Path) -> TensorBoard:
    """Write every number of the history as a scalar for TensorBoard. Raises ImportError where tensorboard is missing."""
    folder = _path("folder", folder, "folder")
    checks.optional("torch.utils.tensorboard", "cl.taps.tensorboard", "tensorboard")
    return TensorBoard(folder)


@dataclasses.dataclass(frozen=True)
class Warned:
    """A tap whose exceptions become warnings; made by `warn`."""

    tap: Tap

    def resume(self, time: int) -> None:
        """Resume the tap."""
        self._try(partial(_resume, self.tap, time))

    def __call__(self, time: int, entry: PyTree) -> None:
        self._try(partial(self.tap, time, entry))

    def _try(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:
            warnings.warn(f"tap: {self.tap!r} raised {type(error).__name__}: {error}; the run goes on.", stacklevel=4)


def warn(tap: Tap) -> Warned:
    """The same tap, with a warning where it raises an exception."""
    return Warned(checks.function("tap", tap, "a function (time, entry)"))


def several(*taps: Tap) -> Several:
    """Several taps as one, called in order."""
    return Several(tuple(checks.function("taps", tap, "functions (time, entry)") for tap in taps))


@dataclasses.dataclass(frozen=True)
class Several:
    """Several taps; made by `several`."""

    taps: tuple[Tap, ...]

    def resume(self, time: int) -> None:
        """Resume each."""
        for tap in self.taps:
            _resume(tap, time)

    def __call__(self, time: int, entry: PyTree) -> None:
        for tap in self.taps:
            tap(time, entry)


def _resume(tap: Tap, time: int) -> None:
    resume = getattr(tap, "resume", None)
    if resume is not None:
        resume(time)

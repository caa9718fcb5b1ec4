"""Taps that write text files, a line for each entry, written at once: CSV and JSON lines. A sweep shares one file."""

from __future__ import annotations

import csv as csv_format
import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cl_func.storage import files
from cl_func.storage.taps.numbers import Labels, cells, check_path
from cl_func.tree import PyTree
from cl_func.tree.structure import by_path

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Lines:
    """A tap that appends one line per entry to a text file; made by `csv` and `json_lines`."""

    path: Path
    line: Callable[[int, PyTree, Labels], str]  # (time, entry, labels) -> the line of an entry
    head: Callable[[PyTree, Labels], str] | None  # (entry, labels) -> the line at the top of the file
    start: Callable[[Labels], str]  # what the lines of a run start with
    time_of: Callable[[str, str], int]  # (line, what it starts with) -> its time
    runs: dict[str, bool] = dataclasses.field(default_factory=dict, compare=False, repr=False)  # start -> whether it was resumed

    def __reduce__(self) -> Any:
        return type(self), (self.path, self.line, self.head, self.start, self.time_of)  # where it comes back it has no runs yet

    def resume(self, time: int, labels: Labels = None) -> None:
        """Of the lines of a run keep the complete ones of the entries before `time`."""
        start = self.start(labels)
        self.runs[start] = True
        if not self.path.exists():
            return
        lines = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        head = lines[:1] if self.head is not None else []
        kept, times = list[str](), list[int]()
        for line in lines[len(head) :]:
            other = labels is not None and not line.startswith(start)
            of = -1 if other else self._time(line, start)
            if other or (of < time and len(times) < time):
                kept.append(line)
            if not other and of < time:
                times.append(of)
        if times[:time] != list(range(time)):
            raise ValueError(f"tap: {self.path} does not hold the entries 0..{time - 1} that this run has made; move it away.")
        files.write_bytes(self.path, "".join([*(head if kept else []), *kept]).encode())

    def _time(self, line: str, start: str) -> int:
        """The time of a line; -1 for one that is none of a tap."""
        try:
            return self.time_of(line, start)
        except (ValueError, KeyError, TypeError):
            return -1

    def __call__(self, time: int, entry: PyTree, labels: Labels = None) -> None:
        start = self.start(labels)
        empty = not self.path.exists() or not self.path.stat().st_size
        # A run begins in an empty file, in one that was cleared for it, or in that of the sweep.
        if time == 0 and not empty and not self.runs.get(start, bool(self.runs)):
            raise ValueError(f"tap: {self.path} holds another run; move it away or give this run a file of its own.")
        self.runs[start] = False
        head = "" if self.head is None else self.head(entry, labels)
        if head and not empty and time == 0:
            with open(self.path, newline="") as file:
                if file.readline() != head:
                    raise ValueError(f"tap: {self.path} has other columns than {head.strip()}; give this run a file of its own.")
        text = (head if empty else "") + self.line(time, entry, labels)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", newline="") as file:
            file.write(text)


def csv(path: str | Path) -> Lines:
    """Write the history as CSV: a column `time`, then one per number, such as `accuracy[0]`; full precision.

    Of a trace, what was recorded since the line before is two lists in JSON: `losses.numbers` and `losses.values`. In a sweep the
    first columns are the hyperparameters and the seed, and the lines of all runs are in one file, in the order in which they come.
    """
    return Lines(check_path("path", path, "file"), line=_csv_line, head=_csv_head, start=_csv_start, time_of=_csv_time)


def _csv_line(time: int, entry: PyTree, labels: Labels) -> str:
    return _csv_start(labels) + _csv_row([time, *_check_columns(cells(entry), labels).values()])


def _csv_head(entry: PyTree, labels: Labels) -> str:
    return _csv_row([*(labels or ()), "time", *_check_columns(cells(entry), labels)])


def _check_columns(found: dict[str, T], labels: Labels) -> dict[str, T]:
    """What a probe found, by names that are not those of the time and of the labels; ValueError otherwise."""
    taken = next((name for name in ("time", *(labels or ())) if name in found), None)
    if taken is not None:
        raise ValueError(f"probe: it has a number {taken!r}, which in the file is the name of something else; rename it.")
    return found


def _csv_start(labels: Labels) -> str:
    values = [value if isinstance(value, str) else json.dumps(value) for value in (labels or {}).values()]
    return _csv_row(values).removesuffix("\n") + "," if values else ""


def _csv_time(line: str, start: str) -> int:
    return int(line[len(start) :].partition(",")[0])


def _csv_row(values: Sequence[int | str]) -> str:
    text = io.StringIO()
    csv_format.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def json_lines(path: str | Path) -> Lines:
    """Write the history as one JSON object per line: {"time": 0, "accuracy": [...]}; NaN and Infinity as Python's json does.

    A trace is "losses.numbers" and "losses.values", what was recorded since the line before. In a sweep the objects begin with the
    hyperparameters and the seed, and those of all runs are in one file, in the order in which they come.
    """
    return Lines(check_path("path", path, "file"), line=_json_line, head=None, start=_json_start, time_of=_json_time)


def _json_line(time: int, entry: PyTree, labels: Labels) -> str:
    numbers = {name or "value": leaf.tolist() for name, leaf in by_path("probe", entry).items()}
    return json.dumps({**(labels or {}), "time": time, **_check_columns(numbers, labels)}) + "\n"


def _json_start(labels: Labels) -> str:
    return json.dumps({**(labels or {}), "time": 0}).removesuffix("0}")


def _json_time(line: str, start: str) -> int:
    return int(json.loads(line)["time"])

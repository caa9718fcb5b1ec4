"""Taps that write text files, a line for each entry, written at once: CSV and JSON lines. A sweep shares one file."""

from __future__ import annotations

import contextlib
import csv as csv_format
import dataclasses
import io
import itertools
import json
import os
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
    split: Callable[[str], list[str]]  # a text -> its complete lines, of which one may go over several in the file
    time_of: Callable[[str, Labels], int | None]  # (line, labels) -> its time; None for one that is not of this run
    runs: dict[str, bool] = dataclasses.field(default_factory=dict, compare=False, repr=False)  # labels -> whether it was resumed

    def __reduce__(self) -> Any:
        return type(self), (self.path, self.line, self.head, self.split, self.time_of)  # where it comes back it has no runs yet

    def resume(self, time: int, labels: Labels = None) -> None:
        """Of the lines of a run keep the complete ones of the entries before `time`."""
        self.runs[_key(labels)] = True
        if not self.path.exists():
            return
        lines = self._lines()
        head = lines[:1] if self.head is not None else []
        kept, times = list[str](), list[int]()
        for line in lines[len(head) :]:
            of = self.time_of(line, labels)
            if of is None or (of < time and len(times) < time):
                kept.append(line)
            if of is not None and of < time:
                times.append(of)
        if times[:time] != list(range(time)):
            raise ValueError(f"tap: {self.path} does not hold the entries 0..{time - 1} that this run has made; move it away.")
        files.write_bytes(self.path, "".join([*(head if kept else []), *kept]).encode("utf-8", "surrogateescape"))

    def _lines(self) -> list[str]:
        """The complete lines of the file; what is not text in it stays as it is."""
        return self.split(self.path.read_bytes().decode("utf-8", "surrogateescape"))

    def __call__(self, time: int, entry: PyTree, labels: Labels = None) -> None:
        run = _key(labels)
        size = self.path.stat().st_size if self.path.exists() else 0
        # A run begins in an empty file, in one that was cleared for it, or in that of the sweep.
        if time == 0 and size and not self.runs.get(run, bool(self.runs)):
            raise ValueError(f"tap: {self.path} holds another run; move it away or give this run a file of its own.")
        self.runs[run] = False
        head = "" if self.head is None else self.head(entry, labels)
        if head and size and time == 0:
            with open(self.path, newline="", encoding="utf-8", errors="surrogateescape") as file:
                if file.read(len(head)) != head:
                    raise ValueError(f"tap: {self.path} has other columns than {head.strip()}; give this run a file of its own.")
        text = ("" if size else head) + self.line(time, entry, labels)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                file.write(text)
        except OSError:
            with contextlib.suppress(OSError):  # half a line, of a full disk, would run into the next one
                os.truncate(self.path, size)
            raise


def _key(labels: Labels) -> str:
    """A run of a sweep, whatever the order of its axes."""
    return json.dumps(labels, sort_keys=True)


def csv(path: str | Path) -> Lines:
    """Write the history as CSV: a column `time`, then one per number, such as `accuracy[0]`; full precision.

    Of a trace, what was recorded since the line before is two lists in JSON: `losses.numbers` and `losses.values`. In a sweep the
    first columns are the hyperparameters and the seed, and the lines of all runs are in one file, in the order in which they come.
    """
    return Lines(check_path("path", path, "file"), line=_csv_line, head=_csv_head, split=_csv_lines, time_of=_csv_time)


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


def _csv_lines(text: str) -> list[str]:
    """The complete rows of a text; a cell between quotation marks may go over several lines."""
    rows, row, quoted = list[str](), list[str](), False
    for line in _json_lines(text):
        row.append(line)
        quoted ^= line.count('"') % 2 == 1
        if not quoted:
            rows.append("".join(row))
            row.clear()
    return rows


def _csv_time(line: str, labels: Labels) -> int | None:
    start = _csv_start(labels)
    time = line.removeprefix(start).partition(",")[0]
    return int(time) if line.startswith(start) and time.isdecimal() else None


def _csv_row(values: Sequence[int | str]) -> str:
    text = io.StringIO()
    csv_format.writer(text, lineterminator="\r\n").writerow(values)  # so both signs are put between quotation marks in cells
    return text.getvalue().removesuffix("\r\n") + "\n"


def json_lines(path: str | Path) -> Lines:
    """Write the history as one JSON object per line: {"time": 0, "accuracy": [...]}; NaN and Infinity as Python's json does.

    A trace is "losses.numbers" and "losses.values", what was recorded since the line before. In a sweep the objects begin with the
    hyperparameters and the seed, and those of all runs are in one file, in the order in which they come.
    """
    return Lines(check_path("path", path, "file"), line=_json_line, head=None, split=_json_lines, time_of=_json_time)


def _json_line(time: int, entry: PyTree, labels: Labels) -> str:
    numbers = {name or "value": leaf.tolist() for name, leaf in by_path("probe", entry).items()}
    return json.dumps({**(labels or {}), "time": time, **_check_columns(numbers, labels)}) + "\n"


def _json_lines(text: str) -> list[str]:
    # Not by `splitlines`, which also splits at signs that are within names.
    return [f"{line}\n" for line in text.split("\n")[:-1]]


def _json_time(line: str, labels: Labels) -> int | None:
    try:
        found = json.loads(line)
        of = dict(itertools.takewhile(lambda item: item[0] != "time", found.items()))
        return int(found["time"]) if _key(of) == _key(labels or {}) else None
    except (ValueError, KeyError, TypeError, AttributeError):  # it is none of a tap
        return None

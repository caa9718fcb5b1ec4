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

from cl_func.core.tapping import Saved, TapError
from cl_func.storage import files
from cl_func.storage.taps import ownership
from cl_func.storage.taps.numbers import Labels, cells, check_path
from cl_func.tree import PyTree
from cl_func.tree.structure import by_path

T = TypeVar("T")
MEND = "move it away or give this run a file of its own"


@dataclasses.dataclass(frozen=True)
class Lines:
    """A tap that appends one line per entry to a text file; made by `csv` and `json_lines`."""

    path: Path
    line: Callable[[int, PyTree, Labels], str]  # (time, entry, labels) -> the line of an entry
    head: Callable[[PyTree, Labels], str] | None  # (entry, labels) -> the line at the top of the file
    split: Callable[[str], list[str]]  # a text -> its complete lines, of which one may go over several in the file
    times: Callable[[list[str], Sequence[Labels]], list[int | None]]  # of lines; None for one that is of none of some runs
    runs: dict[str, bool] = dataclasses.field(default_factory=dict, compare=False, repr=False)  # labels -> whether just reopened

    def __reduce__(self) -> Any:
        return type(self), (self.path, self.line, self.head, self.split, self.times)  # where it comes back it has no runs yet

    def reopen(self, saved: Saved, runs: Sequence[Labels] = (None,)) -> int:
        """Of the lines of some runs keep those of the saved entries, and say how many these are, from the first one on.

        TapError for the log of another run, from which nothing is dropped.
        """
        before = self.path.read_bytes() if self.path.exists() else b""
        try:
            kept, held = self._kept(before, saved, runs)
        except TapError:
            self.runs.clear()  # the run may go on with a warning, and must not write there
            raise
        after = "".join(kept).encode("utf-8", "surrogateescape")
        if after != before:
            files.write_bytes(self.path, after)
        ownership.take(saved.folder, self.path)
        self.runs.update(dict.fromkeys(map(_key, runs), True))
        return held

    def _kept(self, content: bytes, saved: Saved, runs: Sequence[Labels]) -> tuple[list[str], int]:
        """The lines that stay in the file, and of how many saved entries they are."""
        lines, top = self.split(content.decode("utf-8", "surrogateescape")), 0 if self.head is None else 1
        times, kept, held = self.times(lines, runs), list[str](), 0
        if saved.count and lines:
            kept = self._saved_lines(saved, lines, times)
            held = max(0, len(kept) - top)
        if content and not held and not ownership.owns(saved.folder, self.path):
            raise TapError(f"tap: {self.path} holds another run than the one kept in {saved.folder}; {MEND}.")
        if not saved.count and None not in runs:
            kept = [line for line, time in zip(lines, times, strict=True) if time is None]  # of other runs of a sweep
        return (kept if len(kept) > top else []), held

    def _saved_lines(self, saved: Saved, lines: list[str], times: list[int | None]) -> list[str]:
        """The lines of the saved entries up to the first one that is missing; TapError for lines that have other values."""
        entries = saved.entries()
        expected = [] if self.head is None else [self.head(entries[0], None)]
        expected += [self.line(time, entry, None) for time, entry in enumerate(entries)]
        known = set(expected)
        for line, time in zip(lines, times, strict=True):
            if line not in known and (time is None or time < saved.count):
                raise TapError(
                    f"tap: {self.path} holds another run than the one kept in {saved.folder}: the history saved there has no line "
                    f"{line[:80].rstrip()!r}; {MEND}."
                )
        both = zip(lines, expected, strict=False)
        return [line for line, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], both)]

    def __call__(self, time: int, entry: PyTree, labels: Labels = None) -> None:
        run, head = _key(labels), "" if self.head is None else self.head(entry, labels)
        size = self.path.stat().st_size if self.path.exists() else 0
        if size and (time == 0 or self.runs.get(run) is not False):
            # A run begins in an empty file, in one that was cleared for it, or in that of the sweep.
            if not self.runs.get(run, bool(self.runs)):
                self.runs.clear()
                raise ValueError(f"tap: {self.path} holds another run; {MEND}.")
            with open(self.path, newline="", encoding="utf-8", errors="surrogateescape") as file:
                if file.read(len(head)) != head:
                    raise ValueError(f"tap: {self.path} has other columns than {head.strip()}; give this run a file of its own.")
        if not size and time == 0 and not self.runs.get(run):
            ownership.release(self.path)
        text = ("" if size else head) + self.line(time, entry, labels)
        self.runs[run] = False
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
    return Lines(check_path("path", path, "file"), line=_csv_line, head=_csv_head, split=_csv_lines, times=_csv_times)


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


def _csv_times(lines: list[str], runs: Sequence[Labels]) -> list[int | None]:
    starts = tuple(map(_csv_start, runs))
    if not lines or not lines[0].startswith(_csv_row([*(runs[0] or ()), "time"]).removesuffix("\n")):
        return [None] * len(lines)  # with other labels, or with these in another order

    def time_of(line: str) -> int | None:
        start = next((start for start in starts if line.startswith(start)), None) if line.startswith(starts) else None
        time = "" if start is None else line.removeprefix(start).partition(",")[0]
        return int(time) if time.isdecimal() else None

    return [time_of(line) for line in lines]


def _csv_row(values: Sequence[int | str]) -> str:
    text = io.StringIO()
    csv_format.writer(text, lineterminator="\r\n").writerow(values)  # so both signs are put between quotation marks in cells
    return text.getvalue().removesuffix("\r\n") + "\n"


def json_lines(path: str | Path) -> Lines:
    """Write the history as one JSON object per line: {"time": 0, "accuracy": [...]}; NaN and Infinity as Python's json does.

    A trace is "losses.numbers" and "losses.values", what was recorded since the line before. In a sweep the objects begin with the
    hyperparameters and the seed, and those of all runs are in one file, in the order in which they come.
    """
    return Lines(check_path("path", path, "file"), line=_json_line, head=None, split=_json_lines, times=_json_times)


def _json_line(time: int, entry: PyTree, labels: Labels) -> str:
    numbers = {name or "value": leaf.tolist() for name, leaf in by_path("probe", entry).items()}
    return json.dumps({**(labels or {}), "time": time, **_check_columns(numbers, labels)}) + "\n"


def _json_lines(text: str) -> list[str]:
    # Not by `splitlines`, which also splits at signs that are within names.
    return [f"{line}\n" for line in text.split("\n")[:-1]]


def _json_times(lines: list[str], runs: Sequence[Labels]) -> list[int | None]:
    keys = {_key(labels or {}) for labels in runs}

    def time_of(line: str) -> int | None:
        try:
            found = json.loads(line)
            of = dict(itertools.takewhile(lambda item: item[0] != "time", found.items()))
            return int(found["time"]) if _key(of) in keys else None
        except (ValueError, KeyError, TypeError, AttributeError):  # it is none of a tap
            return None

    return [time_of(line) for line in lines]

"""Reading checkpoints: the newest whole one of a folder, with every field of its header checked before it is used.

A checksum tells of files that are damaged by accident; a header that was made to mislead has a right one. What it says must fit the
tensors beside it, or the file counts as damaged.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_func.storage import files, resuming

PATTERN = "checkpoint-*.safetensors"


@dataclasses.dataclass
class Progress:
    """How far a run is: whole experiences, calls of the update's functions on the next one, and the orders of passes under way."""

    seen: int = 0
    calls: int = 0
    orders: dict[int, tuple[Tensor, Tensor]] = dataclasses.field(default_factory=dict)
    finished: bool = False


@dataclasses.dataclass
class SavedRun:
    """What a checkpoint tells of a run beside its state: how far it is, and its history."""

    progress: Progress = dataclasses.field(default_factory=Progress)
    columns: list[str] = dataclasses.field(default_factory=list)  # the paths of the leaves of an entry
    history: list[list[Tensor]] = dataclasses.field(default_factory=list)  # of each time the leaves


def number(path: Path) -> int:
    """The number of a checkpoint by its file's name; -1 for other files."""
    digits = path.stem.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else -1


def newest(folder: Path, also: Callable[[Header], str | None] = lambda header: None) -> tuple[Path, Header] | None:
    """The newest whole checkpoint of a folder: its path and header. Damaged ones are passed over with a warning.

    also: gives the name of another field that is wrong, or None. Raises ValueError for a file that an earlier version wrote.
    """
    for path in sorted(folder.glob(PATTERN), key=number, reverse=True):
        try:
            tensors, fields = files.read(path, "checkpoint")
            if isinstance(fields.get("run"), str):
                raise ValueError(
                    f"checkpoint: {path} was written by an earlier version of cl_func, which did not keep what the run is made of; "
                    "finish it with that version, or give this run a folder of its own."
                )
            header = Header(fields, tensors)
            wrong = header.wrong() or also(header)
            if wrong is not None:
                raise files.DamagedFile(f"path: {path} is damaged: {wrong!r} in its header cannot be {fields.get(wrong)!r}.")
            return path, header
        except files.DamagedFile as error:
            warnings.warn(f"checkpoint: passed over a damaged file, looking for an older one. {error}", stacklevel=5)
    return None


@dataclasses.dataclass(frozen=True)
class Header:
    """The header of a checkpoint and its tensors."""

    fields: dict[str, Any]
    tensors: dict[str, Tensor]

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def wrong(self) -> str | None:
        """The first field that cannot be, by its kind or beside the tensors; None if all is right."""
        get, tensors = self.fields.get, self.tensors
        for name in ("seen", "calls", "entries"):
            if type(get(name)) is not int or not 0 <= self[name] < 1 << 62:
                return name
        for name in ("run", "passed", "outline"):
            if not resuming.strings(get(name)):
                return name
        columns: Any = get("columns")
        orders: Any = get("orders")
        strides = get("strides")
        if not _distinct(columns, str) or self._numbers("history") != {f"{i}" for i in range(len(columns))}:
            return "columns"
        lengths = {len(tensors[f"history.{i}"]) if tensors[f"history.{i}"].ndim else None for i in range(len(columns))}
        if lengths != {self["entries"]} and (columns or self["entries"]):
            return "entries"
        if not _distinct(orders, int) or self._numbers("order") != {f"{n}.{part}" for n in orders for part in ("rows", "valid")}:
            return "orders"
        for rows, valid in self._orders().values():
            if rows.dtype != torch.int64 or valid.dtype != torch.bool or rows.shape != valid.shape:
                return "orders"
        if not isinstance(strides, dict) or not all(_fits(tensors.get(f"state.{path}"), s) for path, s in strides.items()):
            return "strides"
        return None if isinstance(get("finished"), bool) else "finished"

    def _numbers(self, kind: str) -> set[str]:
        return {name.removeprefix(f"{kind}.") for name in self.tensors if name.startswith(f"{kind}.")}

    def _orders(self) -> dict[int, tuple[Tensor, Tensor]]:
        return {n: (self.tensors[f"order.{n}.rows"], self.tensors[f"order.{n}.valid"]) for n in self["orders"]}

    def parse_run(self) -> SavedRun:
        """How far the run was, and its history so far."""
        columns = [self.tensors[f"history.{i}"] for i in range(len(self["columns"]))]
        history = [[column[t] for column in columns] for t in range(self["entries"])]
        return SavedRun(Progress(self["seen"], self["calls"], self._orders(), self["finished"]), self["columns"], history)


def _distinct(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(part) is kind for part in value) and len(set(value)) == len(value)


def _fits(leaf: Tensor | None, strides: Any) -> bool:
    """Whether strides are of a layout of a tensor without gaps or overlaps."""
    if leaf is None or not isinstance(strides, list) or len(strides) != leaf.ndim or any(type(s) is not int for s in strides):
        return False
    dense = 1
    for stride, size in sorted(zip(strides, leaf.shape, strict=True)):
        if size != 1:
            if stride != dense:
                return leaf.numel() == 0
            dense *= size
    return True

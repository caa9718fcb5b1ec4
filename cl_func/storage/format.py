"""Reading checkpoints: the newest intact one of a folder, with every field of its header checked before it is used.

The checksum shows accidental damage, but a forged header has a correct one too. A header that does not match the tensors of its
file counts as damaged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_func import user_warnings
from cl_func.storage import files, resuming

PATTERN = "checkpoint-*.safetensors"


@dataclasses.dataclass
class Progress:
    """How far a run has come."""

    seen: int = 0  # completed experiences
    calls: int = 0  # calls of the update's functions on the next one
    rows: int = 0  # rows of the next one, with padding; 0 if that is not known
    orders: dict[int, tuple[Tensor, Tensor]] = dataclasses.field(
        default_factory=dict
    )  # rows, valid of the current pass of each loop
    finished: bool = False


@dataclasses.dataclass
class SavedRun:
    """What a checkpoint holds of a run besides its state: its progress and its history."""

    progress: Progress = dataclasses.field(default_factory=Progress)
    columns: list[str] = dataclasses.field(default_factory=list)  # the paths of the leaves of an entry of the history
    history: list[list[Tensor]] = dataclasses.field(default_factory=list)  # the leaves of each entry


def number(path: Path) -> int:
    """The number in the file name of a checkpoint; -1 for other files."""
    digits = path.stem.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else -1


def newest(folder: Path, check: Callable[[Header], str | None] | None = None) -> tuple[Path, Header] | None:
    """The path and the header of the newest intact checkpoint of a folder; None if it has none. Damaged ones give a warning.

    check: a further check, which returns the name of an invalid field or None. Raises ValueError for a file that an earlier version
    of this library wrote.
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
            invalid = header.invalid_field() or (None if check is None else check(header))
            if invalid is not None:
                raise files.DamagedFile(f"path: {path} is damaged: {invalid!r} in its header cannot be {fields.get(invalid)!r}.")
            return path, header
        except files.DamagedFile as error:
            user_warnings.warn(f"checkpoint: passed over a damaged file, looking for an older one. {error}")
    return None


@dataclasses.dataclass(frozen=True)
class Header:
    """The header of a checkpoint and its tensors."""

    fields: dict[str, Any]
    tensors: dict[str, Tensor]

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def invalid_field(self) -> str | None:
        """The first field that is of a wrong type or does not match the tensors; None if all are valid."""
        get, tensors = self.fields.get, self.tensors
        for name in ("seen", "calls", "entries", *(["rows"] if "rows" in self.fields else [])):
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
        """The progress and the history of the run."""
        columns = [self.tensors[f"history.{i}"] for i in range(len(self["columns"]))]
        history = [[column[t] for column in columns] for t in range(self["entries"])]
        return SavedRun(
            Progress(self["seen"], self["calls"], self.fields.get("rows", 0), self._orders(), self["finished"]),
            self["columns"],
            history,
        )


def _distinct(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(part) is kind for part in value) and len(set(value)) == len(value)


def _fits(leaf: Tensor | None, strides: Any) -> bool:
    """Whether strides describe a layout of a tensor without gaps or overlaps."""
    if leaf is None or not isinstance(strides, list) or len(strides) != leaf.ndim or any(type(s) is not int for s in strides):
        return False
    dense = 1
    for stride, size in sorted(zip(strides, leaf.shape, strict=True)):
        if size != 1:
            if stride != dense:
                return leaf.numel() == 0
            dense *= size
    return True

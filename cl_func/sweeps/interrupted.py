"""Interrupted runs of a sweep: read one by one from the checkpoints of their chunks, and stacked into new chunks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_func import tree
from cl_func.storage.format import Header, SavedRun, newest


@dataclasses.dataclass(frozen=True)
class InterruptedRun:
    """One interrupted run of a sweep, as the checkpoint of its chunk holds it."""

    path: Path  # of the checkpoint
    state: dict[str, Tensor]  # by "state.path"
    header: dict[str, Any]
    saved: SavedRun

    @property
    def position(self) -> tuple[int, int, int]:
        """(experiences, calls on the next one, its rows with padding) so far; runs at the same position can share a chunk."""
        progress = self.saved.progress
        return progress.seen, progress.calls, progress.rows if progress.calls else 0


def interrupted_runs(folder: Path) -> dict[str, InterruptedRun]:
    """The interrupted runs in the folder of a sweep, by name; if several chunks held a run, from the one that got furthest."""
    found: dict[str, InterruptedRun] = {}
    for chunk in sorted(folder.glob("partial-*")):
        saved = newest(chunk, _invalid_field)
        if saved is None:
            continue
        path, header = saved
        all_lanes = header.parse_run()
        state = {name: leaf for name, leaf in header.tensors.items() if name.startswith("state.")}
        for i, run in enumerate(header["runs"]):
            lane = _Lane(i if header["lanes"] > 1 else None)
            orders = {j: (lane(rows), lane(valid)) for j, (rows, valid) in all_lanes.progress.orders.items()}
            own = InterruptedRun(
                path,
                {name: lane(leaf) for name, leaf in state.items()},
                header.fields,
                SavedRun(
                    dataclasses.replace(all_lanes.progress, orders=orders),
                    all_lanes.columns,
                    [[lane(leaf) for leaf in entry] for entry in all_lanes.history],
                ),
            )
            if run not in found or found[run].position < own.position:
                found[run] = own
    return found


def _invalid_field(header: Header) -> str | None:
    """The field about lanes in the header of a chunk's checkpoint that is invalid, or None."""
    runs, lanes = header.fields.get("runs"), header.fields.get("lanes")
    if not isinstance(runs, list) or not runs or not all(isinstance(run, str) for run in runs):
        return "runs"
    if type(lanes) is not int or not len(runs) <= lanes:
        return "lanes"
    axis = {name: 1 if name.startswith("history.") else 0 for name in header.tensors}  # in a history the first axis is time
    stacked = all(leaf.ndim > axis[name] and leaf.shape[axis[name]] == lanes for name, leaf in header.tensors.items())
    return None if lanes == 1 or stacked else "lanes"


@dataclasses.dataclass(frozen=True)
class _Lane:
    """Takes one lane of a leaf; the leaf itself if it has no lane axis."""

    index: int | None

    def __call__(self, leaf: Tensor) -> Tensor:
        # A copy, since pickling a view would send the other lanes to the worker too.
        return leaf if self.index is None else leaf[self.index].clone()


def saved_strides(runs: Sequence[InterruptedRun], start: Any, lanes: int) -> dict[str, Sequence[int]]:
    """The memory layout in which a chunk of these runs goes on: that of their own chunk, or where they are of several, or were
    run in other lanes, that of a state `start` which a run begins with, in lanes.
    """
    header = runs[0].header
    if header["lanes"] == lanes and all(run.path == runs[0].path for run in runs):
        found: dict[str, Sequence[int]] = header["strides"]
        return found
    begun = start if lanes == 1 else tree.stack([start] * lanes)
    return {path: torch.empty_like(leaf).stride() for path, leaf in tree.items(begun) if not leaf.is_contiguous()}


def stack_runs(runs: Sequence[InterruptedRun], lanes: int) -> SavedRun:
    """Where a chunk of these runs, all at the same position, resumes."""

    def stacked(leaves: Sequence[Tensor]) -> Tensor:
        return leaves[0] if lanes == 1 else torch.stack(list(leaves))

    saved = [run.saved for run in runs]
    first = saved[0]
    orders = {
        j: (stacked([s.progress.orders[j][0] for s in saved]), stacked([s.progress.orders[j][1] for s in saved]))
        for j in first.progress.orders
    }
    history = [[stacked([s.history[t][k] for s in saved]) for k in range(len(entry))] for t, entry in enumerate(first.history)]
    return SavedRun(dataclasses.replace(first.progress, orders=orders), first.columns, history)

"""Runs of a sweep that were interrupted: read from the checkpoints of their chunks, one by one, and put side by side again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_func.storage.format import Header, SavedRun, newest


@dataclasses.dataclass(frozen=True)
class InterruptedRun:
    """One run of a sweep that was interrupted: its state by path, its history and its progress, as its chunk saved them."""

    path: Path
    state: dict[str, Tensor]
    header: dict[str, Any]
    saved: SavedRun

    @property
    def position(self) -> tuple[int, int]:
        """How far it is; runs that are equally far can share a chunk."""
        return self.saved.progress.seen, self.saved.progress.calls


def interrupted_runs(folder: Path) -> dict[str, InterruptedRun]:
    """The interrupted runs of a sweep's folder by their names; of several chunks that held a run, the one that got furthest."""
    found: dict[str, InterruptedRun] = {}
    for chunk in sorted(folder.glob("partial-*")):
        saved = newest(chunk, _of_lanes)
        if saved is None:
            continue
        path, header = saved
        whole = header.parse_run()
        state = {name: leaf for name, leaf in header.tensors.items() if name.startswith("state.")}
        for i, run in enumerate(header["runs"]):
            lane = _Lane(i if header["lanes"] > 1 else None)
            orders = {j: (lane(rows), lane(valid)) for j, (rows, valid) in whole.progress.orders.items()}
            own = InterruptedRun(
                path,
                {name: lane(leaf) for name, leaf in state.items()},
                header.fields,
                SavedRun(
                    dataclasses.replace(whole.progress, orders=orders),
                    whole.columns,
                    [[lane(leaf) for leaf in entry] for entry in whole.history],
                ),
            )
            if run not in found or found[run].position < own.position:
                found[run] = own
    return found


def _of_lanes(header: Header) -> str | None:
    """Which field of a header cannot be, if it is of some runs side by side; None if all is right."""
    runs, lanes = header.fields.get("runs"), header.fields.get("lanes")
    if not isinstance(runs, list) or not runs or not all(isinstance(run, str) for run in runs):
        return "runs"
    if type(lanes) is not int or not len(runs) <= lanes:
        return "lanes"
    axis = {name: 1 if name.startswith("history.") else 0 for name in header.tensors}  # of a history, time is first
    wide = all(leaf.ndim > axis[name] and leaf.shape[axis[name]] == lanes for name, leaf in header.tensors.items())
    return None if lanes == 1 or wide else "lanes"


@dataclasses.dataclass(frozen=True)
class _Lane:
    index: int | None

    def __call__(self, leaf: Tensor) -> Tensor:
        # A copy: sent to a worker, a view would take the other lanes along.
        return leaf if self.index is None else leaf[self.index].clone()


def side_by_side(runs: Sequence[InterruptedRun], lanes: int) -> SavedRun:
    """Where a chunk goes on from whose lanes are these runs, all equally far."""

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

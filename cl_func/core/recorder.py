"""The history of a run as it grows: measured by the probe, judged by the rule that may stop the run, given to the tap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from optree import PyTreeSpec
from torch import Tensor

from cl_func import contracts, tree
from cl_func.core.checkpointing import Checkpointer
from cl_func.core.kinds import Probe
from cl_func.core.stop import STOPPED, StopCheck, StopRule, with_answer
from cl_func.core.tapping import Tap, TapFeed


class Recorder:
    """Measures a state whenever `scan` says so; with a checkpointer it goes on with the history that was saved.

    donate: whether the leaves of the state are overwritten later, so that those that the probe returns must be copied.
    """

    def __init__(
        self, probe: Probe, every: int, donate: bool, tap: Tap | None, stop: StopRule | None, checkpointer: Checkpointer | None
    ) -> None:
        self.probe, self.every, self.donate, self.checkpointer = probe, every, donate, checkpointer
        self.history = list[list[Tensor]]() if checkpointer is None else checkpointer.history  # the leaves of each entry
        self.structure: PyTreeSpec | None = None  # of an entry
        self.rule, self.stopped = stop, False
        self.check: StopCheck | None = None
        self.feed = None if tap is None else TapFeed(tap, self.history)

    def resume(self, checkpointer: Checkpointer, state: Any, exp: Any, has_more: bool) -> None:
        """Go on with the saved history; exp: the last experience seen; has_more: whether more experiences follow.

        Raises ValueError for a history that does not fit this run.
        """
        progress = checkpointer.progress
        final = 1 if progress.finished and progress.seen % self.every else 0  # the entry for the end of the stream
        checkpointer.check_history_length(progress.seen // self.every + final)
        if checkpointer.changed and self.history:
            checkpointer.check_entry(self._measured(state, exp))
        if self.rule is not None and self.history:
            self.stopped = bool(self.history[-1][checkpointer.columns.index(STOPPED)])
        if has_more and final and not self.stopped:  # the stream is longer now
            del self.history[-1]
        if self.feed is not None:
            self.feed.resume(checkpointer.folder, lambda: self._structure(state, exp))

    def _measured(self, state: Any, exp: Any) -> Any:
        """What the probe returns, with room for the answer of the rule."""
        entry = contracts.probe_output(self.probe(state, exp))
        return entry if self.rule is None else with_answer(entry, False)

    def _structure(self, state: Any, exp: Any) -> PyTreeSpec:
        """The structure of an entry, also where all of them came from the checkpoint."""
        if self.structure is None:
            self.structure = tree.flatten(self._measured(state, exp))[1]
        return self.structure

    def measure(self, state: Any, exp: Any) -> None:
        """Add an entry to the history."""
        entry = contracts.probe_output(self.probe(state, exp))
        if self.rule is not None:
            self.check = self.check or StopCheck(self.rule, self.history)
            entry = self.check.judge(entry)
            self.stopped = bool(entry[STOPPED])
        leaves, self.structure = tree.flatten(entry)
        if self.checkpointer is not None:
            self.checkpointer.check_entry(entry)
        # A probe may return leaves of the state, which the next donated step overwrites.
        self.history.append([leaf.clone() for leaf in leaves] if self.donate else leaves)
        if self.feed is not None:
            self.feed.feed(self.structure)

    def finish(self, state: Any, exp: Any) -> Any:
        """The history, stacked over time, when the run is over; None if there is no entry."""
        if not self.history:
            return None
        structure = self._structure(state, exp)
        if self.feed is not None:
            self.feed.feed(structure)
            self.feed.finish()
        return tree.unflatten(structure, [_stack(column) for column in zip(*self.history, strict=True)])


def _stack(column: Sequence[Tensor]) -> Tensor:
    return torch.stack([leaf.to(column[-1].device) for leaf in column])  # entries from a checkpoint are on the CPU

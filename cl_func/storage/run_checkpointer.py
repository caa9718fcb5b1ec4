"""The checkpointer of a run: saves it as it goes on, finds where it was, and skips what was done before.

Every function of the update is counted, one for one whether it is compiled with its neighbours or not. A run that goes on makes the
same calls again from the start of its experience; those counted before return the state as it is.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_func import tree
from cl_func.core.nodes import Combinator, Fused, Wrapper, unwrapped
from cl_func.storage import files, resuming
from cl_func.storage.fingerprint import Entries
from cl_func.storage.format import PATTERN, Progress, SavedRun, newest, number
from cl_func.transforms import Compiled

SHARE = 0.01  # of the run time that checkpoints may cost when nothing else is asked for


class RunCheckpointer:
    """Saves a run as it goes on, and finds where it was. Made by `Checkpoint.open_run`, used by `scan`.

    checkpoint: the Checkpoint, where and how often. run: the fingerprint of the run; passed: what it has seen of its stream; extra:
    more fields of the header; saved: where the run goes on from, for one that is not to be looked for by `resume`.
    """

    def __init__(
        self,
        checkpoint: Any,
        run: Entries,
        passed: resuming.Passed | None = None,
        extra: dict[str, Any] | None = None,
        saved: SavedRun | None = None,
    ) -> None:
        self.checkpoint, self.folder, self.run, self.extra = checkpoint, Path(checkpoint.folder), run, extra or {}
        self.passed = passed or resuming.Passed(iter(()))
        self._go_on(saved or SavedRun())
        self.number, self.saved, self.cost = 0, time.perf_counter(), 0.0
        self.changed = False  # whether what is gone on with was another run's

    def _go_on(self, saved: SavedRun) -> None:
        self.progress, self.columns, self.history, self.skip = saved.progress, saved.columns, saved.history, 0

    def resume(self, start: Any) -> Any:
        """The state to go on from, which is `start` if there is no checkpoint; sets the progress and the history.

        Raises ValueError for the checkpoint of another run.
        """
        found = newest(self.folder)
        self.number = 1 + max((number(path) for path in self.folder.glob(PATTERN)), default=-1)
        if found is None:
            return start
        path, header = found
        self._go_on(header.parse_run())
        within = self.progress.calls > 0
        others = self.passed.differences(header["passed"], self.progress.seen + within)
        what, mend = f"checkpoint: {self.folder} holds another run", "cl.Checkpoint(folder, on_change='warn')"
        insist = self.checkpoint.on_change
        self.changed = not resuming.check(header["run"], self.run, others, what, insist, mend, header["format"])
        return _strided(files.fitted(header.tensors, header.fields, start, path, "state"), header["strides"])

    def check_history_length(self, entries: int) -> None:
        """Check that the history has as many entries as a run of this progress has."""
        if len(self.history) != entries:
            raise ValueError(
                f"every: the history in {self.folder} has {len(self.history)} entries after {self.progress.seen} experiences, with "
                f"this `every` and probe there are {entries}; give those that the run began with, or a folder of its own."
            )

    def check_entry(self, entry: Any) -> None:
        """Check that an entry of the history, named as the probe names it now, can stand beside those that were saved."""
        before = dict(zip(self.columns, self.history[-1], strict=True)) if self.history else {}
        now = dict(tree.items(entry))
        shapes = [{path: (leaf.dtype, leaf.shape) for path, leaf in some.items()} for some in (before, now)]
        if self.history and shapes[0] != shapes[1]:
            raise ValueError(
                f"probe: it gives {tree.describe(now)}, the history in {self.folder} is of {tree.describe(before)}, and they "
                "cannot stand in one history; give the probe that the run began with, or start it in a folder of its own."
            )
        self.columns = list(now)

    def remaining(self, stream: Iterable[Any]) -> tuple[Any, Iterator[Any], bool]:
        """The experience of a stream that a run has seen last, or None, an iterator over the others, and whether there are any.

        Raises ValueError for a stream that ends before where the run was.
        """
        progress = self.progress
        start = max(progress.seen - 1, 0) if isinstance(stream, Sequence) and progress.seen <= len(stream) else 0
        experiences, count, last = iter(stream[start:] if isinstance(stream, Sequence) and start else stream), start, None
        for exp in itertools.islice(experiences, progress.seen - start):
            count, last = count + 1, exp
        following = list(itertools.islice(experiences, 1))
        if count < progress.seen or (progress.calls and not following):
            part = " and a part of the next" if progress.calls else ""
            raise ValueError(
                f"stream: the checkpoint in {self.folder} has seen {progress.seen} experiences{part}, this stream holds {count}; "
                "give the stream that it was made with, or one that is longer."
            )
        return last, itertools.chain(following, experiences), bool(following)

    def instrument(self, update: Any) -> Any:
        """The update with every function counted, skipped where that was done before, and followed by a save when one is due."""
        self.order_count = 0

        def track(node: Any) -> Any:
            if not isinstance(node, Combinator) or not node.whole:
                return _Tracked(self, node, parts(node))
            orders = tuple(_Tracked(self, order, 1, self._next_order()) for order in node.orders)
            return node.reordered(orders).rebuild(tuple(map(track, node.children)))

        return track(update)

    def _next_order(self) -> int:
        self.order_count += 1
        return self.order_count - 1

    def on_experience_start(self) -> None:
        """An experience begins; the calls made on it before an interruption are still counted in `progress`."""
        self.skip, self.progress.calls, self.progress.finished = self.progress.calls, 0, False
        if not self.skip:
            self.progress.orders = {}

    def on_update_end(self) -> None:
        """The update was called on the experience; if a part of it was done before, that must have been a part of it."""
        if self.progress.calls < self.skip:
            raise files.DamagedFile(
                f"checkpoint: the newest in {self.folder} is damaged: it tells of {self.skip} calls of the update's functions on "
                f"experience {self.progress.seen}, where the update makes {self.progress.calls}; delete it to go on from an "
                "older one."
            )

    def on_experience_end(self, state: Any) -> None:
        """An experience, and what is looked at after it, is done."""
        self.progress = Progress(self.progress.seen + 1)
        self.skip = 0
        every, steps = self.checkpoint.every, self.checkpoint.steps
        if self.progress.seen % every == 0 if every else steps is None and self._worth_it():
            self.save(state)

    def on_call(self, state: Any) -> None:
        """A function of the update was called."""
        steps = self.checkpoint.steps
        if self.progress.calls % steps == 0 if steps else self.checkpoint.every is None and self._worth_it():
            self.save(state)

    def _worth_it(self) -> bool:
        return time.perf_counter() - self.saved > max(1.0, self.cost / SHARE)

    def save(self, state: Any) -> None:
        """Write a checkpoint, then drop the oldest beyond `keep`."""
        start = time.perf_counter()
        columns = [torch.stack(column) for column in zip(*self.history, strict=True)]
        tensors = files.named(state, "state") | {f"history.{i}": column for i, column in enumerate(columns)}
        for j, (rows, valid) in self.progress.orders.items():
            tensors |= {f"order.{j}.rows": rows, f"order.{j}.valid": valid}
        header = {
            "kind": "checkpoint",
            "run": self.run,
            "passed": self.passed.first(self.progress.seen + (self.progress.calls > 0)),
            "seen": self.progress.seen,
            "calls": self.progress.calls,
            "finished": self.progress.finished,
            "orders": [*self.progress.orders],
            "columns": self.columns,
            "entries": len(self.history),
            "strides": {p: torch.empty_like(leaf).stride() for p, leaf in tree.items(state) if not leaf.is_contiguous()},
            "outline": files.outline(state),
            **self.extra,
        }
        files.write(self.folder / f"checkpoint-{self.number:08d}.safetensors", tensors, header)
        self.number += 1
        for old in sorted(self.folder.glob(PATTERN), key=number)[: -self.checkpoint.keep]:
            old.unlink(missing_ok=True)
        self.saved = time.perf_counter()
        self.cost = self.saved - start

    def finish(self, state: Any) -> None:
        """The run is over."""
        self.progress.finished = True
        self.save(state)


@dataclasses.dataclass(frozen=True)
class _Tracked:
    checkpointer: RunCheckpointer
    inner: Any
    parts: int  # how many functions it is
    ordering: int | None = None  # for the function of a loop that draws its order: which loop

    def __call__(self, state: Any, exp: Any) -> Any:
        checkpointer, inner = self.checkpointer, self.inner
        checkpointer.progress.calls += self.parts
        left = checkpointer.progress.calls - checkpointer.skip  # of its functions, those not called before
        if left <= 0:
            if self.ordering is None:
                return state
            # An order that was drawn and used up before is not in the file, and only calls that are skipped ask for it.
            rows, valid = checkpointer.progress.orders.get(self.ordering, (exp.rows, exp.valid))
            return state, (rows.to(exp.rows.device), valid.to(exp.rows.device))
        out = (inner if left >= self.parts else last(inner, left))(state, exp)
        if self.ordering is not None:
            checkpointer.progress.orders[self.ordering] = out[1]
        checkpointer.on_call(out if self.ordering is None else out[0])
        return out


def parts(leaf: Any) -> int:
    """How many functions a leaf of an update calls: `cl.compile` makes one leaf of several."""
    leaf = unwrapped(leaf)
    return sum(map(parts, leaf.parts)) if isinstance(leaf, Fused) else 1


def last(leaf: Any, n: int) -> Any:
    """The last n functions of a leaf, for a run that was saved between them by an update that was not compiled."""
    if isinstance(leaf, Compiled):
        return last(leaf.inner, n)
    if isinstance(leaf, Wrapper) and leaf.same:
        return leaf.around(last(leaf.inner, n))
    if not isinstance(leaf, Fused):
        return leaf
    before = parts(leaf) - n
    while before >= (count := parts(leaf.parts[0])):
        leaf, before = Fused(leaf.parts[1:]), before - count
    return Fused((last(leaf.parts[0], count - before), *leaf.parts[1:]))


def _strided(state: Any, strides: dict[str, Sequence[int]]) -> Any:
    """The state with the memory layout that it was saved from: sums in another order would give other last bits."""

    def lay(path: str, leaf: Tensor) -> Tensor:
        if path not in strides:
            return leaf.clone()  # aligned as torch aligns its own memory, not as in the file
        laid = torch.empty_strided(leaf.shape, strides[path], dtype=leaf.dtype, device=leaf.device)
        return laid.copy_(leaf)

    return tree.unflatten(tree.flatten(state)[1], [lay(path, leaf) for path, leaf in tree.items(state)])

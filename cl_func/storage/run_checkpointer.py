"""The checkpointer of a run: saves it as it proceeds, finds where it was interrupted, and skips what had been done.

Every call of a function of the update is counted, whether the function is compiled together with its neighbours or not. A resumed
run makes the same calls again from the start of its experience; those that had been made return the state unchanged.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cl_func import tree
from cl_func.core.kinds import S, Update
from cl_func.core.looping import Batches
from cl_func.core.nodes import Combinator, Fused, Wrapper, unwrapped
from cl_func.experiences import Experience, pad
from cl_func.storage import files, outlines, resuming
from cl_func.storage.entries import Entries
from cl_func.storage.format import PATTERN, Progress, SavedRun, newest, number
from cl_func.transforms import Compiled
from cl_func.tree.structure import by_path

if TYPE_CHECKING:
    from cl_func.storage.checkpoint import Checkpoint

SHARE = 0.01  # of the run time that checkpoints may take by default


class RunCheckpointer:
    """Saves a run as it proceeds, and finds where it was interrupted. Made by `Checkpoint.open_run`, used by `scan`.

    checkpoint: where and how often to save. run: the fingerprint of the run. experiences: those of its stream that it has seen.
    extra: further fields of the header. saved: where the run resumes, unless `resume` is to look for it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        run: Entries,
        experiences: resuming.SeenExperiences | None = None,
        extra: dict[str, Any] | None = None,
        saved: SavedRun | None = None,
    ) -> None:
        self.checkpoint, self.folder, self.run, self.extra = checkpoint, Path(checkpoint.folder), run, extra or {}
        self.experiences = experiences or resuming.SeenExperiences(iter(()))
        self._restore(saved or SavedRun())
        self.number, self.last_save, self.cost = 0, time.perf_counter(), 0.0  # cost: seconds that the last save took
        self.changed = False  # whether the saved run differs from this one, which only gave a warning

    def _restore(self, saved: SavedRun) -> None:
        self.progress, self.columns, self.history = saved.progress, saved.columns, saved.history
        self.skip = 0  # calls on the current experience that were made before the interruption

    def resume(self, start: S) -> S:
        """The state to continue from, `start` if there is no checkpoint; restores the progress and the history.

        Raises ValueError for the checkpoint of another run.
        """
        found = newest(self.folder)
        self.number = 1 + max((number(path) for path in self.folder.glob(PATTERN)), default=-1)
        if found is None:
            return start
        path, header = found
        self._restore(header.parse_run())
        partly = self.progress.calls > 0  # the next experience has been seen in part
        others = self.experiences.differences(header["passed"], self.progress.seen + partly)
        what, mend = f"checkpoint: {self.folder} holds another run", "cl.Checkpoint(folder, on_change='warn')"
        on_change = self.checkpoint.on_change
        self.changed = not resuming.check(header["run"], self.run, others, what, on_change, mend, header["format"])
        return with_strides(restore_state(header.tensors, header.fields, start, path), header["strides"])

    def check_history_length(self, entries: int) -> None:
        """Check that the history has as many entries as it must have at this progress."""
        if len(self.history) != entries:
            raise ValueError(
                f"every: the history in {self.folder} has {len(self.history)} entries after {self.progress.seen} experiences, with "
                f"this `every` and probe there are {entries}; give those that the run began with, or a folder of its own."
            )

    def check_entry(self, entry: Any) -> None:
        """Check that a new entry can be stacked with the saved ones: the same names, shapes and dtypes."""
        before = dict(zip(self.columns, self.history[-1], strict=True)) if self.history else {}
        now = by_path("probe", entry)
        shapes = [{path: (leaf.dtype, leaf.shape) for path, leaf in entry.items()} for entry in (before, now)]
        if self.history and shapes[0] != shapes[1]:
            raise ValueError(
                f"probe: it gives {tree.describe(now)}, the history in {self.folder} is of {tree.describe(before)}, and they "
                "do not fit in one history; give the probe that the run began with, or start it in a folder of its own."
            )
        self.columns = list(now)

    def remaining(self, stream: Iterable[Any]) -> tuple[Any, Iterator[Any], bool]:
        """The last experience that the run has seen, or None; an iterator over the rest; whether there are any.

        Raises ValueError for a stream that is shorter than what the run has seen.
        """
        progress = self.progress
        start = max(progress.seen - 1, 0) if isinstance(stream, Sequence) and progress.seen <= len(stream) else 0
        experiences, count, last = iter(stream[start:] if isinstance(stream, Sequence) and start else stream), start, None
        for exp in itertools.islice(experiences, progress.seen - start):
            count, last = count + 1, exp
        following = list(map(self._as_long_as_before, itertools.islice(experiences, 1)))
        if count < progress.seen or (progress.calls and not following):
            part = " and a part of the next" if progress.calls else ""
            raise ValueError(
                f"stream: the checkpoint in {self.folder} has seen {progress.seen} experiences{part}, this stream holds {count}; "
                "give the stream that it was made with, or one that is longer."
            )
        return last, itertools.chain(following, experiences), bool(following)

    def _as_long_as_before(self, exp: Any) -> Any:
        """The next experience, padded as it was in the lanes of other runs: the calls on it that were made count the padding."""
        progress = self.progress
        padded = bool(progress.calls) and isinstance(exp, Experience) and len(exp) < progress.rows
        return pad(exp, progress.rows) if padded else exp

    def instrument(self, update: Update) -> Update:
        """The update with each function counted, skipped if it had been called before, and followed by a save if one is due."""
        self.order_count = 0

        def track(node: Any) -> Any:
            if not isinstance(node, Combinator) or not node.whole:
                return _Tracked(self, node, _count_functions(node))
            orders = tuple(_Tracked(self, order, 1, self._next_order()) for order in node.orders)
            return node.reordered(orders).rebuild(tuple(map(track, node.children)))

        return track(update)

    def _next_order(self) -> int:
        self.order_count += 1
        return self.order_count - 1

    def on_experience_start(self, exp: Any) -> None:
        """Start an experience; `progress` still counts the calls made on it before the interruption."""
        self.progress.rows = len(exp) if isinstance(exp, Experience) else 0
        self.skip, self.progress.calls, self.progress.finished = self.progress.calls, 0, False
        if not self.skip:
            self.progress.orders = {}

    def on_update_end(self) -> None:
        """Check, after the update of an experience, that it made at least the calls that were skipped."""
        if self.progress.calls < self.skip:
            raise files.DamagedFile(
                f"checkpoint: the newest in {self.folder} is damaged: it counts {self.skip} calls of the update's functions on "
                f"experience {self.progress.seen}, where the update makes {self.progress.calls}; delete it to go on from an "
                "older one."
            )

    def undisturbed(self) -> int:
        """The number of experiences until a save is due; 0 on one that was seen in part, or where calls are counted for saves."""
        if self.progress.calls or self.checkpoint.steps:
            return 0
        every = self.checkpoint.every
        return sys.maxsize if every is None else every - self.progress.seen % every

    def on_experiences_end(self, state: Any, n: int) -> None:
        """Count experiences that are done and measured, and save if that is due."""
        self.progress = Progress(self.progress.seen + n)
        self.skip = 0
        every, steps = self.checkpoint.every, self.checkpoint.steps
        if self.progress.seen % every == 0 if every else steps is None and self._is_due():
            self.save(state)

    def on_call(self, state: Any) -> None:
        """Save, after a call of a function of the update, if that is due."""
        steps = self.checkpoint.steps
        if self.progress.calls % steps == 0 if steps else self.checkpoint.every is None and self._is_due():
            self.save(state)

    def _is_due(self) -> bool:
        return time.perf_counter() - self.last_save > max(1.0, self.cost / SHARE)

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
            "passed": self.experiences.first(self.progress.seen + (self.progress.calls > 0)),
            "seen": self.progress.seen,
            "calls": self.progress.calls,
            "rows": self.progress.rows,
            "finished": self.progress.finished,
            "orders": [*self.progress.orders],
            "columns": self.columns,
            "entries": len(self.history),
            "strides": {p: torch.empty_like(leaf).stride() for p, leaf in tree.items(state) if not leaf.is_contiguous()},
            "outline": outlines.outline(state),
            "nodes": outlines.nodes(state),
            **self.extra,
        }
        files.write(self.folder / f"checkpoint-{self.number:08d}.safetensors", tensors, header)
        self.number += 1
        for old in sorted(self.folder.glob(PATTERN), key=number)[: -self.checkpoint.keep]:
            old.unlink(missing_ok=True)
        self.last_save = time.perf_counter()
        self.cost = self.last_save - start

    def finish(self, state: Any) -> None:
        """Save the finished run."""
        self.progress.finished = True
        self.save(state)


@dataclasses.dataclass(frozen=True)
class _Tracked:
    """A leaf of an update that counts its calls, and skips those made before the interruption."""

    checkpointer: RunCheckpointer
    inner: Callable[[Any, Any], Any]
    count: int  # how many functions the leaf calls
    loop: int | None = None  # for an Order: the number of its loop

    def __call__(self, state: Any, exp: Any) -> Any:
        checkpointer, inner = self.checkpointer, self.inner
        checkpointer.progress.calls += self.count
        remaining = checkpointer.progress.calls - checkpointer.skip  # of its functions, those not called before
        if remaining <= 0:
            if self.loop is None:
                return state
            # The file does not hold the order of a pass that was over, for which only skipped calls ask.
            rows, valid = checkpointer.progress.orders.get(self.loop, (exp.rows, exp.valid))
            return state, (rows.to(exp.rows.device), valid.to(exp.rows.device))
        out = (inner if remaining >= self.count else _last_functions(inner, remaining))(state, exp)
        if self.loop is not None:
            checkpointer.progress.orders[self.loop] = out[1]
        checkpointer.on_call(out if self.loop is None else out[0])
        return out

    def advance(self, state: Any, batches: Batches, seconds: float) -> int:
        """Take steps as the leaf itself may do (`core/looping.py`), up to the next one after which a save is due."""
        checkpointer = self.checkpointer
        calls, steps = checkpointer.progress.calls, checkpointer.checkpoint.steps
        advance = getattr(self.inner, "advance", None)
        if advance is None or calls < checkpointer.skip:
            return 0
        if steps:
            due = next((i for i in range(1, steps + 1) if (calls + i * self.count) % steps == 0), None)
            batches = batches if due is None else batches.up_to(due)
        done: int = advance(state, batches, seconds)
        if done:
            checkpointer.progress.calls += done * self.count
            checkpointer.on_call(state)
        return done


def _count_functions(leaf: Any) -> int:
    """How many functions a leaf of an update calls: `cl.compile` makes one leaf of several."""
    leaf = unwrapped(leaf)
    return sum(map(_count_functions, leaf.parts)) if isinstance(leaf, Fused) else 1


def _last_functions(leaf: Any, n: int) -> Any:
    """The last n functions of a leaf, for a run that was saved between them when its update was not compiled."""
    if isinstance(leaf, Compiled):
        return _last_functions(leaf.inner, n)
    if isinstance(leaf, Wrapper) and leaf.same:
        return leaf.around(_last_functions(leaf.inner, n))
    if not isinstance(leaf, Fused):
        return leaf
    before = _count_functions(leaf) - n
    while before >= (count := _count_functions(leaf.parts[0])):
        leaf, before = Fused(leaf.parts[1:]), before - count
    return Fused((_last_functions(leaf.parts[0], count - before), *leaf.parts[1:]))


def restore_state(tensors: Mapping[str, Tensor], header: Mapping[str, Any], start: S, path: Path) -> S:
    """The saved state in the structure of `start`, the state that the run began with, whose fields may have been None then."""
    if header["format"] == files.FORMAT:  # an older format has other names for what has been filled
        start = outlines.filled(start, tensors, header.get("nodes"), header["outline"], "state")
    return files.restore(tensors, header, start, path, "state")


def with_strides(state: S, strides: dict[str, Sequence[int]]) -> S:
    """The state in the memory layout that it was saved from: another layout sums in another order, with other last bits."""

    def laid_out(path: str, leaf: Tensor) -> Tensor:
        if path not in strides:
            return leaf.clone()  # with the alignment of torch's own memory, not that of the file
        out = torch.empty_strided(leaf.shape, strides[path], dtype=leaf.dtype, device=leaf.device)
        return out.copy_(leaf)

    return tree.unflatten(tree.flatten(state)[1], [laid_out(path, leaf) for path, leaf in tree.items(state)])

"""Saving and loading, and checkpoints: a run that is killed goes on where it was, to the same bits.

    cl.save("run.safetensors", state)        state = cl.load("run.safetensors", like=state)
    cl.scan(update, state, stream, probe, checkpoint=cl.Checkpoint("folder"))

A checkpoint holds the state, the history so far and the place in the stream: the experience, how many functions of the update
have been called on it, and the order of the rows in the pass under way. To go on, the calls that were made are skipped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, files, tree
from cl_func.core import Compose, Minibatches, Repeat, positive
from cl_func.runs import Runs

PATTERN = "checkpoint-*.safetensors"
SHARE = 0.01  # of the run time that checkpoints may cost when nothing else is asked for


def _file(path: Any) -> None:
    if not isinstance(path, (str, Path)) or not str(path):
        raise checks.refuse("path", "the path of a file", path)


def save(path: str | Path, tree: Any) -> None:
    """Write a state, a history, any tree of tensors, or Runs to a safetensors file; the file appears whole or not at all.

    Raises TypeError for leaves that are no tensors, OSError, naming the file, when it cannot be written.
    """
    _file(path)
    if isinstance(tree, Runs):
        tree.save(path)
    else:
        files.write_tree(path, tree)


def load(path: str | Path, like: Any = None) -> Any:
    """Read what `save` wrote, after checking all of it.

    like: a tree of the structure, shapes and dtypes that were saved, such as `strategy.init(cl.key(0))`; the result has its static
        fields and its devices. Without it, the leaves come as a dict from their paths; a file of Runs needs no `like`.
    Raises FileNotFoundError; ValueError naming the first path that is missing, too many or different, or saying how the file is
    damaged. Nothing in a file is ever executed.
    """
    _file(path)
    if isinstance(like, Runs):
        return Runs.load(path)
    tensors, header = files.read(path, "tree", *(["runs"] if like is None else []))
    if header["kind"] == "runs":
        return Runs.of(tensors, header, path)
    if like is None:
        return {name.removeprefix("tree."): leaf for name, leaf in tensors.items()}
    return files.fitted(tensors, header, like, path)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where and how often a run is saved: `cl.scan(..., checkpoint=cl.Checkpoint(folder))`; run again, it goes on.

    every: after so many experiences.
    steps: after so many calls of the update's functions within an experience, such as training steps on minibatches.
        With neither, whenever saving would have cost 1% of the time since the last save, also within an experience.
    keep: how many of the newest checkpoints to keep.

    The newest whole checkpoint is used; damaged ones are named in a warning. A folder belongs to one run: ValueError for another
    first state, update or history, RuntimeError while another process uses it. Needs safetensors and filelock.
    """

    folder: str | Path
    every: int | None = None
    steps: int | None = None
    keep: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.folder, (str, Path)) or not str(self.folder):
            raise TypeError(f"folder: expected the path of a folder, got {self.folder!r}.")
        if Path(self.folder).is_file():
            raise ValueError(f"folder: {self.folder} is a file; give a folder.")
        for name in ("every", "steps"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        positive("keep", self.keep)

    @contextlib.contextmanager
    def opened(self, update: Any, start: Any, every: int) -> Iterator[Keeper]:
        """The folder, locked, and what is in it of the run of an update from a first state, looked at every so many experiences."""
        with locked(self.folder):
            yield Keeper(self, fingerprint(update, start, every))


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold a folder, which is made if need be. RuntimeError if another process holds it; a process that dies lets go."""
    filelock = checks.optional("filelock", "keeping runs in a folder", "checkpoint")
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ValueError(f"folder: {folder} is a file; give a folder.")
    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(Path(folder) / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise RuntimeError(f"folder: {folder} is in use by another run; wait for it, or give each its own folder.") from error
    try:
        for left in Path(folder).glob(".*.tmp"):  # of a process that was killed while it saved
            left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


@dataclasses.dataclass
class Place:
    """How far a run is: whole experiences, calls of the update's functions on the next one, and the orders of passes under way."""

    seen: int = 0
    calls: int = 0
    orders: dict[int, tuple[Tensor, Tensor]] = dataclasses.field(default_factory=dict)
    finished: bool = False


class Keeper:
    """Saves a run as it goes on, and finds where it was. Made by `Checkpoint.opened`, used by `scan`."""

    def __init__(self, checkpoint: Checkpoint, run: str, extra: dict[str, Any] | None = None) -> None:
        self.checkpoint, self.folder, self.run, self.extra = checkpoint, Path(checkpoint.folder), run, extra or {}
        self.place, self.skip, self.history = Place(), 0, list[list[Tensor]]()
        self.number, self.saved, self.cost = 0, time.perf_counter(), 0.0

    def resume(self, start: Any) -> Any:
        """The state to go on from, which is `start` if there is no checkpoint; sets the place and the history."""
        found = newest(self.folder)
        self.number = 1 + max((_number(path) for path in self.folder.glob(PATTERN)), default=-1)
        if found is None:
            return start
        path, tensors, header = found
        if header["run"] != self.run:
            raise ValueError(
                f"checkpoint: {self.folder} holds another run, of another first state, update or history; "
                "give this one a folder of its own."
            )
        self.place, self.history = placed(tensors, header)
        return _strided(files.fitted(tensors, header, start, path, "state"), header["strides"])

    def tracked(self, update: Any) -> Any:
        """The update with every function counted, skipped where that was done before, and followed by a save when one is due."""
        self.places = 0

        def track(node: Any) -> Any:
            if isinstance(node, Compose):
                return tree.replace(node, updates=tuple(track(part) for part in node.updates))
            if isinstance(node, Repeat):
                return tree.replace(node, update=track(node.update))
            if isinstance(node, Minibatches):
                order = None if node.order is None else _Tracked(self, node.order, self._next_place())
                return tree.replace(node, step=track(node.step), order=order)
            return _Tracked(self, node)

        return track(update)

    def _next_place(self) -> int:
        self.places += 1
        return self.places - 1

    def entered(self) -> None:
        """An experience begins; the calls made on it before an interruption are still counted in `place`."""
        self.skip, self.place.calls = self.place.calls, 0
        if not self.skip:
            self.place.orders = {}

    def left(self, state: Any) -> None:
        """An experience, and what is looked at after it, is done."""
        self.place = Place(self.place.seen + 1)
        self.skip = 0
        every, steps = self.checkpoint.every, self.checkpoint.steps
        if self.place.seen % every == 0 if every else steps is None and self._worth_it():
            self.save(state)

    def called(self, state: Any) -> None:
        """A function of the update was called."""
        steps = self.checkpoint.steps
        if self.place.calls % steps == 0 if steps else self.checkpoint.every is None and self._worth_it():
            self.save(state)

    def _worth_it(self) -> bool:
        return time.perf_counter() - self.saved > max(1.0, self.cost / SHARE)

    def save(self, state: Any) -> None:
        """Write a checkpoint, then drop the oldest beyond `keep`."""
        start = time.perf_counter()
        columns = [torch.stack(column) for column in zip(*self.history, strict=True)]
        tensors = files.named(state, "state") | {f"history.{i}": column for i, column in enumerate(columns)}
        for j, (rows, valid) in self.place.orders.items():
            tensors |= {f"order.{j}.rows": rows, f"order.{j}.valid": valid}
        header = {
            "kind": "checkpoint",
            "run": self.run,
            "seen": self.place.seen,
            "calls": self.place.calls,
            "finished": self.place.finished,
            "orders": [*self.place.orders],
            "columns": len(columns),
            "entries": len(self.history),
            "strides": {p: torch.empty_like(leaf).stride() for p, leaf in tree.items(state) if not leaf.is_contiguous()},
            "outline": files.outline(state),
            **self.extra,
        }
        files.write(self.folder / f"checkpoint-{self.number:08d}.safetensors", tensors, header)
        self.number += 1
        for old in sorted(self.folder.glob(PATTERN), key=_number)[: -self.checkpoint.keep]:
            old.unlink(missing_ok=True)
        self.saved = time.perf_counter()
        self.cost = self.saved - start

    def finish(self, state: Any) -> None:
        """The run is over."""
        self.place.finished = True
        self.save(state)


@dataclasses.dataclass(frozen=True)
class _Tracked:
    keeper: Keeper
    inner: Any
    ordering: int | None = None  # for the function of a loop that draws its order: which loop

    def __call__(self, state: Any, exp: Any) -> Any:
        keeper = self.keeper
        keeper.place.calls += 1
        if keeper.place.calls <= keeper.skip:
            if self.ordering is None:
                return state
            # An order that was drawn and used up before is not in the file, and only calls that are skipped ask for it.
            rows, valid = keeper.place.orders.get(self.ordering, (exp.rows, exp.valid))
            return state, (rows.to(exp.rows.device), valid.to(exp.rows.device))
        out = self.inner(state, exp)
        if self.ordering is not None:
            keeper.place.orders[self.ordering] = out[1]
        keeper.called(out if self.ordering is None else out[0])
        return out


def _strided(state: Any, strides: dict[str, Sequence[int]]) -> Any:
    """The state with the memory layout that it was saved from: sums in another order would give other last bits."""

    def lay(path: str, leaf: Tensor) -> Tensor:
        if path not in strides:
            return leaf.clone()  # aligned as torch aligns its own memory, not as in the file
        laid = torch.empty_strided(leaf.shape, strides[path], dtype=leaf.dtype, device=leaf.device)
        return laid.copy_(leaf)

    return tree.unflatten(tree.flatten(state)[1], [lay(path, leaf) for path, leaf in tree.items(state)])


def fingerprint(update: Any, start: Any, every: int) -> str:
    """What tells one run from another, as far as one can: the first state, the loops of the update, the times of the history."""
    return files.digest(files.named(start), f"{files.outline(update)}{every}")[:32]


def _number(path: Path) -> int:
    digits = path.stem.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else -1


def newest(folder: Path) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
    """The newest whole checkpoint of a folder: its path, tensors and header. Damaged ones are passed over with a warning."""
    for path in sorted(folder.glob(PATTERN), key=_number, reverse=True):
        try:
            return path, *files.read(path, "checkpoint")
        except files.DamagedFile as error:
            warnings.warn(f"checkpoint: passed over a damaged file, looking for an older one. {error}", stacklevel=5)
    return None


def placed(tensors: dict[str, Tensor], header: dict[str, Any]) -> tuple[Place, list[list[Tensor]]]:
    """How far a saved run was, and its history: for each time, the leaves."""
    orders = {int(j): (tensors[f"order.{j}.rows"], tensors[f"order.{j}.valid"]) for j in header["orders"]}
    columns = [tensors[f"history.{i}"] for i in range(header["columns"])]
    history = [[column[t] for column in columns] for t in range(header["entries"])]
    return Place(header["seen"], header["calls"], orders, header["finished"]), history

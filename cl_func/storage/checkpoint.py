"""Saving and loading, and checkpoints: a run that is killed goes on where it was, to the same bits.

    cl.save("run.safetensors", state)        state = cl.load("run.safetensors", like=state)
    cl.scan(update, state, stream, probe, checkpoint=cl.Checkpoint("folder"))

A checkpoint holds the state, the history so far and the place in the stream: the experience, how many functions of the update
have been called on it, and the order of the rows in the pass under way. To go on, the calls that were made are skipped.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, overload

from cl_func import checks
from cl_func.checks import positive_int
from cl_func.core.kinds import Probe, S, Update
from cl_func.storage import files, fingerprint, resuming
from cl_func.storage.resuming import OnChange
from cl_func.storage.run_checkpointer import RunCheckpointer


def _file(path: Any) -> None:
    if not isinstance(path, (str, Path)) or not str(path):
        raise checks.type_error("path", "the path of a file", path)


def save(path: str | Path, tree: Any) -> None:
    """Write a state, a history, any tree of tensors, or Runs to a safetensors file; the file appears whole or not at all.

    Raises TypeError for leaves that are no tensors, OSError, naming the file, when it cannot be written.
    """
    _file(path)
    for kind in files.KINDS.values():
        if isinstance(tree, kind):
            tree.save(path)
            return
    files.write_tree(path, tree)


@overload
def load(path: str | Path, like: S) -> S: ...


@overload
def load(path: str | Path, like: None = None) -> Any: ...


def load(path: str | Path, like: Any = None) -> Any:
    """Read what `save` wrote, after checking all of it.

    like: a tree of the structure, shapes and dtypes that were saved, such as `strategy.init(cl.key(0))`; the result has its static
        fields and its devices. Without it, the leaves come as a dict from their paths; a file of Runs needs no `like`.
    Raises FileNotFoundError; ValueError naming the first path that is missing, too many or different, or saying how the file is
    damaged. Nothing in a file is ever executed.
    """
    _file(path)
    kinds = {kind: known for kind, known in files.KINDS.items() if like is None or isinstance(like, known)}
    own = like is not None and bool(kinds)
    tensors, header = files.read(path, *([] if own else ["tree"]), *kinds)
    if header["kind"] in kinds:
        return kinds[header["kind"]].of(tensors, header, path)
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
    on_change: "error" refuses to go on with a run that something has changed of, "warn" goes on from its state after a warning.

    The newest whole checkpoint is used; damaged ones are named in a warning. A folder belongs to one run: ValueError, with a list
    of what has changed, for another update, probe, `every`, first state or stream, with the code and constants of their functions
    and the data; `cl_func.storage.fingerprint` tells what is not looked into. Compiled or eager, other `steps` and `keep`, and a
    longer stream that begins with the same experiences go on; other versions of libraries do after a warning. RuntimeError while
    another process uses the folder. Needs safetensors and filelock.
    """

    folder: str | Path
    every: int | None = None
    steps: int | None = None
    keep: int = 2
    on_change: OnChange = "error"

    def __post_init__(self) -> None:
        if not isinstance(self.folder, (str, Path)) or not str(self.folder):
            raise TypeError(f"folder: expected the path of a folder, got {self.folder!r}.")
        if Path(self.folder).is_file():
            raise ValueError(f"folder: {self.folder} is a file; give a folder.")
        for name in ("every", "steps"):
            if getattr(self, name) is not None:
                positive_int(name, getattr(self, name))
        positive_int("keep", self.keep)
        resuming.on_change(self.on_change)

    @contextlib.contextmanager
    def open_run(
        self, update: Update, start: Any, stream: Iterable[Any], probe: Probe | None, every: int
    ) -> Iterator[RunCheckpointer]:
        """The folder, locked, and a checkpointer of the run of these arguments of `scan`, not yet resumed."""
        with locked(self.folder):
            passed = resuming.Passed(stream)
            files.named(start)  # what cannot be saved is told before anything else
            parts = {
                "update": update,
                "probe": probe,
                "every": every if probe else None,
                "state": start,
                "stream.make": passed.made,
            }
            yield RunCheckpointer(self, fingerprint.of(**parts), passed)


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

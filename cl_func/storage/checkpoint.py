"""Saving, loading and checkpoints: a run that was killed resumes where it was, and gives the same bits.

    cl.save("run.safetensors", state)        state = cl.load("run.safetensors", like=state)
    cl.scan(update, state, stream, probe, checkpoint=cl.Checkpoint("folder"))

A checkpoint holds the state, the history so far and the position in the stream: the experience, how many functions of the update
have been called on it, and the order of the rows in the current pass. A resumed run skips the calls that had been made.
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
from cl_func.core.stop import StopRule
from cl_func.storage import files, fingerprint, resuming
from cl_func.storage.resuming import OnChange
from cl_func.storage.run_checkpointer import RunCheckpointer


def _check_path(path: Any) -> None:
    if not isinstance(path, (str, Path)) or not str(path):
        raise checks.type_error("path", "the path of a file", path)


def save(path: str | Path, tree: Any) -> None:
    """Write a state, a history, any other tree of tensors, or Runs to a safetensors file, completely or not at all.

    Raises TypeError for leaves that are not tensors; OSError, naming the file, if it cannot be written.
    """
    _check_path(path)
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
    """Read a file that `save` wrote; all of it is checked first.

    like: a tree with the saved structure, shapes and dtypes, such as `strategy.init(cl.key(0))`; the result has its static fields
        and is on its devices. Without `like` the leaves are returned as a dict from paths to tensors, and Runs as Runs.
    Raises FileNotFoundError; ValueError, naming the first path that is missing, unexpected or different, or saying how the file is
    damaged. Nothing in a file is ever executed.
    """
    _check_path(path)
    kinds = {kind: known for kind, known in files.KINDS.items() if like is None or isinstance(like, known)}
    own = like is not None and bool(kinds)
    tensors, header = files.read(path, *([] if own else ["tree"]), *kinds)
    if header["kind"] in kinds:
        return kinds[header["kind"]].of(tensors, header, path)
    if like is None:
        return {name.removeprefix("tree."): leaf for name, leaf in tensors.items()}
    return files.restore(tensors, header, like, path)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where and how often a run is saved: `cl.scan(..., checkpoint=cl.Checkpoint(folder))`; called again, it resumes.

    every: save after this many experiences.
    steps: save after this many calls of the update's functions within an experience, such as training steps on minibatches.
        With neither, a run is saved whenever that costs no more than 1% of the time since the last save, also within an experience.
    keep: how many of the newest checkpoints to keep.
    on_change: if the saved run differs from this one, "error" raises; "warn" resumes from its state after a warning.

    The newest intact checkpoint is used; damaged ones are named in a warning. A folder belongs to one run: ValueError, with a list
    of the changes, for another update, probe, `every`, `stop`, initial state or stream, including the code and constants of their
    functions and the data; `cl_func.storage.fingerprint` says what is not compared. A run may resume compiled or eagerly, with
    other `steps` or `keep`, with a longer stream that begins with the same experiences, and, after a warning, with other versions
    of libraries.
    RuntimeError while another process uses the folder. Needs safetensors and filelock.
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
        self, update: Update, start: Any, stream: Iterable[Any], probe: Probe | None, every: int, stop: StopRule | None = None
    ) -> Iterator[RunCheckpointer]:
        """Lock the folder and make the checkpointer of the run that these arguments of `scan` describe; it is not resumed yet."""
        with locked(self.folder):
            seen = resuming.SeenExperiences(stream)
            files.named(start)  # raises first of all if the state cannot be saved
            parts = {
                "update": update,
                "probe": probe,
                "every": every if probe else None,
                "state": start,
                "stream.make": seen.source,
                **({} if stop is None else {"stop": stop}),
            }
            yield RunCheckpointer(self, fingerprint.of(**parts), seen)


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Lock a folder, which is made if necessary. RuntimeError if another process holds the lock; one that dies releases it."""
    filelock = checks.optional("filelock", "keeping runs in a folder", "checkpoint")
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ValueError(f"folder: {folder} is a file; give a folder.")
    if Path(folder).is_symlink() and not Path(folder).exists():
        raise ValueError(f"folder: {folder} is a link to {Path(folder).readlink()}, which is not there; make it, or mend the link.")
    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(Path(folder) / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise RuntimeError(f"folder: {folder} is in use by another run; wait for it, or give each its own folder.") from error
    try:
        for temporary in Path(folder).glob(".*.tmp"):
            if files.TEMPORARY.fullmatch(temporary.name) and temporary.is_file():  # of a process that was killed while saving
                temporary.unlink(missing_ok=True)
        yield
    finally:
        lock.release()

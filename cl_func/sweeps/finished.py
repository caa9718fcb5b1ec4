"""The finished runs of a sweep with their histories, in memory and optionally in a folder."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cl_func import user_warnings
from cl_func.storage import files, resuming
from cl_func.storage.resuming import OnChange
from cl_func.sweeps.made_of import differ, digest
from cl_func.sweeps.run_config import Run

History = dict[str, np.ndarray]  # name -> [time, ...]
DIGEST = "made_of"  # in the headers of files of runs
PARTIAL = "partial-*/checkpoint-*.safetensors"


class FinishedRuns:
    """The histories of finished runs. With a folder, each finished chunk is written to a file, and all are read at the start.

    A run is identified by its seed and values, so a folder may hold runs of larger and smaller sweeps of the same kind.

    fingerprint: gives what the sweep is made of; called only if there is a folder, whose sweep, and each of whose files, must be
        made of the same.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        shape: list[int],
        folder: str | Path | None,
        fingerprint: Callable[[], dict[str, str]] = dict,
        on_change: OnChange = "error",
    ) -> None:
        self.names, self.shape, self.folder = [run.name for run in runs], shape, None if folder is None else Path(folder)
        self.histories: dict[str, History] = {}
        self.made_of: dict[str, str] = {}  # with a folder
        self.digest = ""  # of that
        if self.folder is None:
            return
        self.made_of = fingerprint()
        self.digest, wanted, others, damaged = digest(self.made_of), set(self.names), list[Path](), list[files.DamagedFile]()
        unchanged = _check_folder(self.folder, self.made_of, on_change)
        for path in sorted(self.folder.glob("chunk-*.safetensors")):
            try:
                found, made_of = _read_chunk(path)
            except files.DamagedFile as error:
                damaged.append(error)
                continue
            self.histories |= found
            others += [path] if differ(made_of, self.digest) and wanted & found.keys() else []
        for fault in damaged if wanted - self.histories.keys() else ():  # otherwise they have been run again
            user_warnings.warn(f"resume: passed over a damaged file; its runs are run again. {fault}")
        for path in sorted(self.folder.glob(PARTIAL)):
            names, made_of = _runs_of(path)
            others += [path] if differ(made_of, self.digest) and wanted & names else []
        if unchanged:
            _check_files(self.folder, others, on_change)

    def has(self, index: int) -> bool:
        """Whether a run is finished."""
        return self.names[index] in self.histories

    def count(self) -> int:
        """How many of the runs are finished."""
        return sum(map(self.has, range(len(self.names))))

    def add(self, runs: Sequence[Run], histories: Sequence[History]) -> None:
        """Add a chunk of finished runs, and write its file. ValueError for histories that differ in names, shapes or dtypes."""
        for history in histories:
            for like in itertools.islice(self.histories.values(), 1):
                if _outline(history) != _outline(like):
                    raise ValueError(
                        f"probe: these runs give {_outline(history)} and those in {self.folder} {_outline(like)}, which do "
                        "not fit together; give the probe that the sweep began with, or a folder of its own."
                    )
        names = [self.names[run.index] for run in runs]
        self.histories |= dict(zip(names, histories, strict=True))
        if self.folder is None:
            return
        tensors = {f"{i}.{k}": torch.from_numpy(v) for i, history in enumerate(histories) for k, v in history.items()}
        path = self.folder / f"chunk-{runs[0].index:06d}-{uuid.uuid4().hex[:8]}.safetensors"
        header = {"runs": names, "histories": list(histories[0]) if histories else [], DIGEST: self.digest}
        files.write(path, tensors, {"kind": "chunk", **header})
        for partial in self.folder.glob("partial-*/runs.json"):
            if _listed(partial) <= self.histories.keys():
                shutil.rmtree(partial.parent, ignore_errors=True)

    def collect(self) -> tuple[dict[str, Tensor], Tensor]:
        """The histories, name -> [*shape, time, ...], and finished [*shape] bool; missing runs are NaN, or 0 if not floating."""
        n = math.prod(self.shape)
        finished = torch.tensor([self.has(i) for i in range(n)])
        if not self.histories:
            return {}, finished.reshape(self.shape)
        like = next(iter(self.histories.values()))
        missing = {k: np.full_like(v, math.nan if np.issubdtype(v.dtype, np.floating) else 0) for k, v in like.items()}
        rows = [self.histories.get(name, missing) for name in self.names]
        history = {k: torch.from_numpy(np.stack([row[k] for row in rows])) for k in like}
        return {k: v.reshape(*self.shape, *v.shape[1:]) for k, v in history.items()}, finished.reshape(self.shape)


def _outline(history: History) -> dict[str, str]:
    """The dtype and shape of each array."""
    return {name: f"{value.dtype}{[*value.shape]}" for name, value in history.items()}


def _check_files(folder: Path, others: list[Path], on_change: OnChange) -> None:
    """Check that no file of a folder is of another sweep: ValueError, or a warning."""
    if not others:
        return
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    message = f"resume: {others[0]}{more}: runs of another sweep than the others in {folder}."
    if on_change == "error":
        raise ValueError(f"{message} Move them away, or use them all the same with on_change='warn'.")
    user_warnings.warn(f"{message} They are used all the same.")


def _runs_of(path: Path) -> tuple[set[Any], str | None]:
    """The names of the runs in a checkpoint and the digest of what they are made of; nothing if it is damaged."""
    try:
        header = files.read(path, "checkpoint")[1]
        names, made_of = set(header["runs"]), header.get(DIGEST)
    except (ValueError, KeyError, TypeError):  # which is said when it is needed
        return set(), None
    return names, made_of if isinstance(made_of, str) and made_of else None


def _check_folder(folder: Path, run: dict[str, str], on_change: OnChange) -> bool:
    """Whether the sweep in a folder is made of the same as this one; if so, write down what this one is made of.

    Otherwise ValueError, or a warning: what the folder holds was not made of this, and later calls are to be told so too.
    """
    plan = folder / "sweep.json"
    left = next(itertools.chain(folder.glob("chunk-*.safetensors"), folder.glob(PARTIAL)), None)
    if not plan.exists() and left is not None:
        message = f"resume: {folder} has lost its sweep.json, without which there is no telling what the runs in it are made of."
        if on_change == "error":
            raise ValueError(f"{message} Give this sweep a folder of its own, or use them all the same with on_change='warn'.")
        user_warnings.warn(f"{message} They are used all the same.")
        return False
    if plan.exists():
        try:
            before = json.loads(plan.read_bytes())
        except (ValueError, RecursionError) as error:
            raise _damaged(plan, str(error)) from error
        if isinstance(before, dict) and isinstance(before.get("fingerprint"), str):
            raise ValueError(
                f"resume: {folder} was written by an earlier version of cl_func, which did not keep what the sweep is made of; "
                "finish it with that version, or give this sweep a folder of its own."
            )
        if not isinstance(before, dict) or not resuming.strings(before.get("run")) or "version.python" not in before["run"]:
            raise _damaged(plan, "it does not say what the sweep is made of")
        what, mend = f"resume: {folder} holds another sweep", "on_change='warn', of cl.sweep or of the cl.Checkpoint"
        written = before.get("format", 2)
        if type(written) is not int:
            raise _damaged(plan, f"its format cannot be {written!r}")
        if written > files.FORMAT:
            raise ValueError(
                f"resume: {folder} has format {written}, this version of cl_func reads up to {files.FORMAT}; upgrade it."
            )
        if not resuming.check(before["run"], run, (), what, on_change, mend, written):
            return False
    files.write_bytes(plan, json.dumps({"format": files.FORMAT, "run": run}, indent=1).encode())
    return True


def _damaged(plan: Path, reason: str) -> files.DamagedFile:
    return files.DamagedFile(
        f"resume: {plan} is damaged: {reason}. Without it there is no telling what the runs in its folder are made of; "
        "give this sweep a folder of its own."
    )


def _read_chunk(path: Path) -> tuple[dict[str, History], str | None]:
    """The histories in the file of a chunk, by run, and the digest of what they are made of; DamagedFile if inconsistent."""
    tensors, header = files.read(path, "chunk")
    runs: Any = header.get("runs")
    if not isinstance(runs, list) or not all(isinstance(run, str) for run in runs) or len(set(runs)) != len(runs):
        raise files.DamagedFile(f"path: {path} is damaged: its header does not name its runs.")
    histories: list[History] = [{} for _ in runs]
    for name, value in sorted(tensors.items()):
        number, _, path_in_history = name.partition(".")
        if not number.isdecimal() or int(number) >= len(runs):
            raise files.DamagedFile(f"path: {path} is damaged: {name!r} belongs to none of its runs.")
        histories[int(number)][path_in_history] = value.numpy()
    if any(not history or _outline(history) != _outline(histories[0]) for history in histories):
        raise files.DamagedFile(f"path: {path} is damaged: the histories of its runs differ in names, shapes or dtypes.")
    order: Any = header.get("histories", list(histories[0]) if histories else [])  # chunks had no order once
    if not isinstance(order, list) or any(sorted(map(str, order)) != sorted(history) for history in histories):
        raise files.DamagedFile(f"path: {path} is damaged: its header does not name the histories of its runs.")
    made_of: Any = header.get(DIGEST)
    if made_of is not None and not (isinstance(made_of, str) and made_of):
        raise files.DamagedFile(f"path: {path} is damaged: its header does not say what its runs are made of.")
    return {name: {key: history[key] for key in order} for name, history in zip(runs, histories, strict=True)}, made_of


def _listed(path: Path) -> set[Any]:
    """The names in a list of interrupted runs; for a list that cannot be read, one name that is never that of a finished run."""
    try:
        return set(json.loads(path.read_bytes()))
    except (ValueError, TypeError, RecursionError, OSError):
        return {None}

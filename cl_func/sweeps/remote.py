"""Running the chunks of a sweep on an executor: what all runs share is sent to each worker once; failures are named at the end."""

from __future__ import annotations

import ast
import concurrent.futures
import dataclasses
import re
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from cl_func.core.tapping import Tap
from cl_func.progress import ProgressBar
from cl_func.storage import resuming
from cl_func.storage.checkpoint import Checkpoint
from cl_func.storage.entries import Entries
from cl_func.sweeps import broadcast
from cl_func.sweeps.autotune import autotune
from cl_func.sweeps.finished import FinishedRuns, History
from cl_func.sweeps.interrupted import InterruptedRun
from cl_func.sweeps.jobs import AutoBool, AutoInt, Execution, Prepared, SweepJob
from cl_func.sweeps.made_of import made_of
from cl_func.sweeps.run_config import FirstRun, Run, RunConfig
from cl_func.sweeps.taps import Entries as TapEntries

T = TypeVar("T")
_CODE = re.compile(r" (code|lambda) #[0-9a-f]{16}$")


class Future(Protocol):
    """What an executor returns for a task."""

    def done(self) -> bool: ...

    def result(self) -> Any: ...

    def cancel(self) -> Any: ...


class Executor(Protocol):
    """What a sweep needs of an executor: `concurrent.futures.Executor`, Dask's or submitit's, for example."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Any:
        """A `Future` of `function(*arguments)`, computed on a worker."""


@dataclasses.dataclass
class _Worker:
    """What a worker keeps between tasks: what all runs share, on its device, and the compiled programs."""

    config: RunConfig
    checkpoint: Checkpoint | None
    digest: str  # of what the runs are made of
    dtype: torch.dtype  # torch's default in the process that sent it
    prepared: dict[Execution, Prepared] = dataclasses.field(default_factory=dict)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)  # a worker may have several threads

    def autotune(self, run: Run, n_runs: int, compile: AutoBool, lanes: AutoInt) -> Execution:
        return autotune(FirstRun(self.config, run), n_runs, compile, lanes)

    def train(
        self, execution: Execution, runs: Sequence[Run], interrupted: Sequence[InterruptedRun], tapped: bool
    ) -> tuple[list[History], TapEntries]:
        entries = TapEntries()
        job = SweepJob(self.config, execution, self.checkpoint, self.digest)
        with self.lock:
            compiles = execution not in self.prepared  # a worker that takes several chunks compiles in its first one
            if compiles:
                self.prepared[execution] = job.prepare()
        prepared, tap = self.prepared[execution], entries if tapped else None
        return job(runs, prepared, interrupted=interrupted, compiles=compiles, tap=tap), entries


@dataclasses.dataclass(frozen=True)
class _Shared:
    """What is sent to each worker once. made_of: what its runs must be made of there too; None if that is not compared."""

    config: RunConfig
    run: Run
    checkpoint: Checkpoint | None
    made_of: Entries | None
    digest: str
    dtype: torch.dtype  # torch's default

    def worker(self) -> _Worker:
        """The worker. ValueError if its modules have other code or other constants than those of the process that sent this."""
        torch.set_default_dtype(self.dtype)  # models may be made with it
        if self.made_of is not None:
            here = made_of(FirstRun(self.config, self.run), self.config.benchmark)
            both = [path for path in self.made_of.keys() & here if _is_imported(path, self.made_of[path], here[path])]
            found = resuming.changes(*({path: one[path] for path in sorted(both)} for one in (self.made_of, here)))
            if found:
                raise ValueError(
                    f"executor: on its worker the sweep is made of something else: {resuming.listed(found)}. "
                    "A worker imports modules anew: set constants in arguments, and use new workers after code has changed, or "
                    "run it all the same with on_change='warn'."
                )
        return _Worker(self.config.on_device(), self.checkpoint, self.digest, self.dtype)


def _is_imported(path: str, sent: str, here: str) -> bool:
    """Whether an entry of a fingerprint is code or a constant, of which a worker imports its own.

    All else is sent, or is a cache that each process fills by itself; what is computed has other last digits on other processors.
    """
    computed = path.startswith(("state.", "made."))
    return not computed and all(_CODE.search(text) or _is_constant(text) for text in (sent, here))


def _is_constant(text: str) -> bool:
    try:
        return isinstance(ast.literal_eval(text), (bool, int, float, str))
    except (ValueError, SyntaxError):
        return False


@dataclasses.dataclass(frozen=True)
class _Answer:
    """The answer of a worker: its name, and the result of the task or the blobs that it lacks."""

    worker: str
    value: Any


def _do(reference: broadcast.Reference, sent: Mapping[str, bytes], task: str, arguments: tuple[Any, ...]) -> _Answer:
    worker = broadcast.received(reference, sent, _Shared.worker)
    if isinstance(worker, broadcast.Missing):
        return _Answer(broadcast.worker(), worker)
    torch.set_default_dtype(worker.dtype)
    return _Answer(broadcast.worker(), getattr(worker, task)(*arguments))


class Workers:
    """The workers of an executor. A context manager, inside of which they can read what all runs share.

    finished: the finished runs of the sweep, with their folder if there is one. compared: whether what the sweep is made of must
        be the same on the workers.
    """

    def __init__(
        self, executor: Executor, first: FirstRun, checkpoint: Checkpoint | None, finished: FinishedRuns, compared: bool
    ) -> None:
        self._executor, self._folder = executor, finished.folder
        entries = (finished.made_of or made_of(first, first.config.benchmark)) if compared else None
        shared = _Shared(first.config, first.run, checkpoint, entries, finished.digest, torch.get_default_dtype())
        self._data = broadcast.Broadcast(shared, _shared_folder(executor, finished.folder))

    def __enter__(self) -> Workers:
        self._data.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._data.__exit__()

    def autotune(self, first: FirstRun, n_runs: int, compile: AutoBool, lanes: AutoInt) -> Execution:
        """How to execute n_runs runs; chosen on a worker, which may be on another machine than this process."""
        if compile != "auto" and lanes != "auto":
            return Execution(lanes, compile)
        ((_, outcome),) = self._outcomes([first.run], "autotune", lambda run: (run, n_runs, compile, lanes))
        if isinstance(outcome, concurrent.futures.BrokenExecutor):
            raise RuntimeError(f"sweep: the worker that timed a few steps of {first.run} was lost.") from outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def run(
        self,
        execution: Execution,
        first: FirstRun,
        chunks: list[list[Run]],
        interrupted: dict[str, InterruptedRun],
        finished: FinishedRuns,
        bar: ProgressBar,
        tap: Tap | None = None,
    ) -> None:
        """Run chunks, and add their results as they come. RuntimeError at the end, naming the runs that failed."""
        failed: list[Run] = []
        cause: Exception | None = None

        def arguments(chunk: list[Run]) -> tuple[Any, ...]:
            return execution, chunk, [interrupted[run.name] for run in chunk if run.name in interrupted], tap is not None

        for chunk, outcome in self._outcomes(chunks, "train", arguments):
            try:
                if isinstance(outcome, Exception):
                    raise outcome
                histories, entries = outcome
                if tap is not None:
                    entries.give(tap)
                finished.add(chunk, histories)
            except Exception as error:
                failed, cause = [*failed, *chunk], error
            bar.update(len(chunk) * first.length)
        if failed:
            names = "; ".join(str(run) for run in failed)
            kept = "and kept; sweep again to run what is missing." if self._folder else "; give resume=FOLDER to keep them."
            raise RuntimeError(
                f"sweep: {len(failed)} runs failed or lost their worker: {names}. The others are finished"
                f"{' ' if self._folder else ''}{kept}"
            ) from cause

    def _outcomes(self, items: Sequence[T], task: str, arguments: Callable[[T], tuple[Any, ...]]) -> Iterator[tuple[T, Any]]:
        """Each item with the result of a task on a worker, or with the exception that it raised, as they come."""
        futures: dict[Future, tuple[T, bool]] = {}  # item, whether blobs were sent with it
        lacking: dict[str, frozenset[str]] = {}  # worker -> the blobs that it lacks, since it cannot see the files
        returned: list[T] = []  # the items that such workers gave back

        def submit(item: T, digests: frozenset[str] = frozenset()) -> None:
            with warnings.catch_warnings():
                if digests:  # Dask warns of large tasks; there are as few of them as possible
                    warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
                future = self._executor.submit(_do, self._data.reference, self._data.content(digests), task, arguments(item))
            futures[future] = (item, bool(digests))

        try:
            for item in items:
                submit(item)
            # Polled, since the jobs of schedulers such as submitit are not of the class concurrent.futures.Future.
            while futures or returned:
                done = [future for future in futures if future.done()]
                for future in done:
                    item, _ = futures.pop(future)
                    try:
                        answer = future.result()
                    except Exception as error:
                        yield item, error
                        continue
                    if isinstance(answer.value, broadcast.Missing):
                        lacking[answer.worker] = answer.value.digests
                        returned.append(item)
                    else:
                        lacking.pop(answer.worker, None)
                        yield item, answer.value
                # The data are sent with one item for each worker that lacks them, not with every item that was given back.
                while returned and (not lacking or sum(with_blobs for _, with_blobs in futures.values()) < len(lacking)):
                    item = returned.pop(0)
                    try:
                        submit(item, frozenset().union(*lacking.values()))
                    except Exception as error:  # the pool has broken
                        yield item, error
                if not done:
                    time.sleep(0.02)
        finally:
            for future in futures:
                future.cancel()


def _shared_folder(executor: Executor, folder: Path | None) -> Path | None:
    """A folder that the workers can see too, if one is known: that of the sweep, or that of a scheduler's executor."""
    if folder is not None:
        for leftover in folder.glob("broadcast-*"):  # of a sweep that was killed: no other can use the folder, which is locked
            shutil.rmtree(leftover, ignore_errors=True)
        return folder.resolve()
    own = getattr(executor, "folder", None)
    if not isinstance(own, (str, Path)) or not str(own):
        return None
    own = Path(own).expanduser().resolve()
    shared = next(parent for parent in (own, *own.parents) if "%" not in str(parent))  # "log/%j" is a folder for each job
    return shared if shared.is_dir() else None

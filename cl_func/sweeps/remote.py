"""Chunks of a sweep on an executor: what all runs share is brought to each worker once, and failures are named at the end."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from cl_func.storage.checkpoint import Checkpoint
from cl_func.sweeps import broadcast
from cl_func.sweeps.autotune import autotune
from cl_func.sweeps.finished import FinishedRuns
from cl_func.sweeps.interrupted import InterruptedRun
from cl_func.sweeps.jobs import Execution, SweepJob
from cl_func.sweeps.progress import ProgressBar
from cl_func.sweeps.run_config import FirstRun, Run, RunConfig

T = TypeVar("T")


@dataclasses.dataclass
class _Worker:
    """What a worker keeps between tasks: what all runs share, on its device, and its compiled programs."""

    config: RunConfig
    checkpoint: Checkpoint | None
    prepared: dict[Execution, tuple[Any, Any]] = dataclasses.field(default_factory=dict)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)  # a worker may have several threads

    def autotune(self, run: Run, n_runs: int, compile: Any, lanes: Any) -> Execution:
        return autotune(FirstRun(self.config, run), n_runs, compile, lanes)

    def train(self, execution: Execution, runs: Sequence[Run], interrupted: Sequence[InterruptedRun]) -> list[dict[str, Any]]:
        job = SweepJob(self.config, execution, self.checkpoint)
        with self.lock:
            compiles = execution not in self.prepared  # a worker that takes several chunks compiles in its first one
            if compiles:
                self.prepared[execution] = job.prepare()
        return job(runs, self.prepared[execution], interrupted=interrupted, compiles=compiles)


def _worker(shared: tuple[RunConfig, Checkpoint | None]) -> _Worker:
    config, checkpoint = shared
    return _Worker(config.on_device(), checkpoint)


@dataclasses.dataclass(frozen=True)
class _Answer:
    """What a worker answers: its name, and what a task gives, or what the worker lacks to do it."""

    worker: str
    value: Any


def _do(reference: broadcast.Reference, sent: Mapping[str, bytes], task: str, arguments: tuple[Any, ...]) -> _Answer:
    worker = broadcast.received(reference, sent, _worker)
    value = worker if isinstance(worker, broadcast.Missing) else getattr(worker, task)(*arguments)
    return _Answer(broadcast.worker(), value)


class Workers:
    """The workers of an executor. As a context: inside it they can get at what all runs share.

    folder: that of the sweep's finished runs, if it has one.
    """

    def __init__(self, executor: Any, config: RunConfig, checkpoint: Checkpoint | None, folder: Path | None) -> None:
        self._executor, self._folder = executor, folder
        self._data = broadcast.Broadcast((config, checkpoint), _near(executor, folder))

    def __enter__(self) -> Workers:
        self._data.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._data.__exit__()

    def autotune(self, first: FirstRun, n_runs: int, compile: bool | Literal["auto"], lanes: int | Literal["auto"]) -> Execution:
        """How to run so many runs, chosen on a worker, whose machine may be another than this one."""
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
    ) -> None:
        """Run chunks; results are taken as they come. RuntimeError that names the runs that failed, when all are done."""
        failed: list[Run] = []
        cause: Exception | None = None

        def arguments(chunk: list[Run]) -> tuple[Any, ...]:
            return execution, chunk, [interrupted[run.name] for run in chunk if run.name in interrupted]

        for chunk, outcome in self._outcomes(chunks, "train", arguments):
            try:
                if isinstance(outcome, Exception):
                    raise outcome
                finished.add(chunk, outcome)
            except Exception as error:
                failed, cause = [*failed, *chunk], error
            bar.update(first.length)
        if failed:
            names = "; ".join(str(run) for run in failed)
            kept = "and kept; sweep again to run what is missing." if self._folder else "; give resume=FOLDER to keep them."
            raise RuntimeError(
                f"sweep: {len(failed)} runs failed or lost their worker: {names}. The others are finished"
                f"{' ' if self._folder else ''}{kept}"
            ) from cause

    def _outcomes(self, items: Sequence[T], task: str, arguments: Callable[[T], tuple[Any, ...]]) -> Iterator[tuple[T, Any]]:
        """What a task of a worker gives for each item, or the exception that it raises, as they come."""
        futures: dict[Any, tuple[T, bool]] = {}
        lacking: dict[str, frozenset[str]] = {}  # the blobs that workers lack that see no files, by the worker's name
        returned: list[T] = []  # the items that they gave back

        def submit(item: T, digests: frozenset[str] = frozenset()) -> None:
            with warnings.catch_warnings():
                if digests:  # Dask advises against large tasks; these are as few as can be
                    warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
                future = self._executor.submit(_do, self._data.reference, self._data.content(digests), task, arguments(item))
            futures[future] = (item, bool(digests))

        try:
            for item in items:
                submit(item)
            # Polled, because jobs of schedulers such as submitit's are not concurrent.futures.Future.
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
                # The data go with as many items as there are workers without them, not with all that were given back.
                while returned and (not lacking or sum(loaded for _, loaded in futures.values()) < len(lacking)):
                    item = returned.pop(0)
                    try:
                        submit(item, frozenset().union(*lacking.values()))
                    except Exception as error:  # the pool broke meanwhile
                        yield item, error
                if not done:
                    time.sleep(0.02)
        finally:
            for future in futures:
                future.cancel()


def _near(executor: Any, folder: Path | None) -> Path | None:
    """A folder that the workers see as well, if one is known: that of the sweep, or that of a scheduler's executor."""
    if folder is not None:
        for left in folder.glob("broadcast-*"):  # of a sweep that was killed; the folder is locked
            shutil.rmtree(left, ignore_errors=True)
        return folder.resolve()
    own = getattr(executor, "folder", None)
    if not isinstance(own, (str, Path)) or not str(own):
        return None
    own = Path(own).expanduser().resolve()
    shared = next(parent for parent in (own, *own.parents) if "%" not in str(parent))  # "log/%j" is one for each job
    return shared if shared.is_dir() else None

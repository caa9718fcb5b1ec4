"""Chunks of a sweep on an executor: the job is brought to each worker once, the chunks follow, failures are named at the end."""

from __future__ import annotations

import dataclasses
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_func.sweeps import broadcast
from cl_func.sweeps.finished import FinishedRuns
from cl_func.sweeps.interrupted import InterruptedRun
from cl_func.sweeps.jobs import Run, SweepJob, before


@dataclasses.dataclass(frozen=True)
class _Answer:
    """What a worker answers: its name, and the histories of its runs, or what it lacks to run them."""

    worker: str
    histories: list[dict[str, Any]] | broadcast.Missing


def _ready(job: SweepJob) -> tuple[SweepJob, Any, list[str]]:
    job = job.on_device()
    return job, job.prepare(), ["compiles"]  # a worker that takes several chunks compiles in its first one


def _work(
    reference: broadcast.Reference, sent: Mapping[str, bytes], runs: Sequence[Run], partials: Sequence[InterruptedRun]
) -> _Answer:
    ready = broadcast.received(reference, sent, _ready)
    if isinstance(ready, broadcast.Missing):
        return _Answer(broadcast.worker(), ready)
    job, prepared, first = ready
    return _Answer(broadcast.worker(), job(runs, prepared, partials=partials, compiles=bool(first and first.pop())))


def run_on(
    job: SweepJob, chunks: list[list[Run]], partials: dict[str, InterruptedRun], ledger: FinishedRuns, bar: Any, executor: Any
) -> None:
    """Do chunks on an executor; results are taken as they come. RuntimeError that names the runs that failed, when all are done."""
    failed: list[Run] = []
    cause: BaseException | None = None
    with broadcast.Broadcast(job, _near(executor, ledger)) as data:
        futures: dict[Any, tuple[list[Run], bool]] = {}

        def submit(chunk: list[Run], digests: frozenset[str] = frozenset()) -> None:
            with warnings.catch_warnings():
                if digests:  # Dask advises against large tasks; these are as few as can be
                    warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
                future = executor.submit(_work, data.reference, data.content(digests), chunk, before(chunk, partials))
            futures[future] = (chunk, bool(digests))

        try:
            for chunk in chunks:
                submit(chunk)
            lacking: dict[str, frozenset[str]] = {}  # what the workers lack that see no files, by name
            held: list[list[Run]] = []  # the chunks that they gave back
            # Polled, because jobs of schedulers such as submitit's are not concurrent.futures.Future.
            while futures or held:
                done = [future for future in futures if future.done()]
                for future in done:
                    chunk, _ = futures.pop(future)
                    try:
                        answer = future.result()
                        if isinstance(answer.histories, broadcast.Missing):
                            lacking[answer.worker] = answer.histories.digests
                            held.append(chunk)
                            continue
                        lacking.pop(answer.worker, None)
                        ledger.add(chunk, answer.histories)
                    except Exception as error:
                        failed, cause = [*failed, *chunk], error
                    bar.update(job.length(chunk[0]))
                # The data go with as many chunks as there are workers without them, not with all that were given back.
                while held and (not lacking or sum(loaded for _, loaded in futures.values()) < len(lacking)):
                    chunk = held.pop(0)
                    try:
                        submit(chunk, frozenset().union(*lacking.values()))
                    except Exception as error:  # the pool broke meanwhile
                        failed, cause = [*failed, *chunk], error
                if not done:
                    time.sleep(0.02)
        except KeyboardInterrupt:
            for future in futures:
                future.cancel()
            raise
    if failed:
        names = "; ".join(str(run) for run in failed)
        raise RuntimeError(
            f"sweep: {len(failed)} runs failed or lost their worker: {names}. The others are finished"
            f"{' and kept; sweep again to run what is missing.' if ledger.folder else '; give resume=FOLDER to keep them.'}"
        ) from cause


def _near(executor: Any, ledger: FinishedRuns) -> Path | None:
    """A folder that the workers see as well, if one is known: that of the sweep, or that of a scheduler's executor."""
    if ledger.folder is not None:
        for left in ledger.folder.glob("broadcast-*"):  # of a sweep that was killed; the folder is locked
            shutil.rmtree(left, ignore_errors=True)
        return ledger.folder.resolve()
    folder = getattr(executor, "folder", None)
    if not isinstance(folder, (str, Path)) or not str(folder):
        return None
    folder = Path(folder).expanduser().resolve()
    shared = next(place for place in (folder, *folder.parents) if "%" not in str(place))  # "log/%j" is one for each job
    return shared if shared.is_dir() else None

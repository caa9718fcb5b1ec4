"""Running the chunks of a sweep in this process: on one thread per core, or one after the other."""

from __future__ import annotations

import concurrent.futures
import threading
from functools import partial

import torch

from cl_func.core.tapping import Tap
from cl_func.progress import ProgressBar
from cl_func.sweeps.autotune import cores
from cl_func.sweeps.finished import FinishedRuns, History
from cl_func.sweeps.interrupted import InterruptedRun
from cl_func.sweeps.jobs import Execution, SweepJob
from cl_func.sweeps.run_config import FirstRun, Run, RunConfig
from cl_func.sweeps.taps import SharedTap


def threads(config: RunConfig, execution: Execution, chunks: int) -> int:
    """How many threads run that many chunks."""
    return min(chunks, cores()) if execution.compiled and config.device is None else 1


def run_here(
    job: SweepJob,
    first: FirstRun,
    chunks: list[list[Run]],
    interrupted: dict[str, InterruptedRun],
    finished: FinishedRuns,
    bar: ProgressBar,
    tap: Tap | None = None,
) -> None:
    """Run chunks on threads that use one core each, which scales better than kernels that use all cores."""
    prepared, stopped, threads_before = job.prepare(), threading.Event(), torch.get_num_threads()
    shared = None if tap is None else SharedTap(tap)
    workers = threads(job.config, job.execution, len(chunks))

    def tick(n: int) -> None:
        bar.update(n)
        if stopped.is_set():
            raise KeyboardInterrupt

    def work(chunk: list[Run]) -> list[History]:
        if workers > 1:
            torch.set_num_threads(1)
        resumed = [interrupted[run.name] for run in chunk if run.name in interrupted]
        ticks = partial(tick, len(chunk))
        return job(chunk, prepared, first=first, interrupted=resumed, tick=ticks, compiles=chunk is chunks[0], tap=shared)

    if workers == 1:
        for chunk in chunks:
            finished.add(chunk, work(chunk))
        return
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        futures = {pool.submit(work, chunk): chunk for chunk in chunks}
        for future in concurrent.futures.as_completed(futures):
            finished.add(futures[future], future.result())
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads_before)

"""Chunks of a sweep in this process: on threads, one a core, or one after the other."""

from __future__ import annotations

import concurrent.futures
import threading
from typing import Any

import torch

from cl_func.sweeps.autotune import cores
from cl_func.sweeps.finished import FinishedRuns
from cl_func.sweeps.interrupted import InterruptedRun
from cl_func.sweeps.jobs import Execution, SweepJob
from cl_func.sweeps.progress import ProgressBar
from cl_func.sweeps.run_config import FirstRun, Run, RunConfig


def threads(config: RunConfig, execution: Execution, chunks: int) -> int:
    """On how many threads so many chunks run, side by side."""
    return min(chunks, cores()) if execution.compiled and config.device is None else 1


def run_here(
    job: SweepJob,
    first: FirstRun,
    chunks: list[list[Run]],
    interrupted: dict[str, InterruptedRun],
    finished: FinishedRuns,
    bar: ProgressBar,
) -> None:
    """Run chunks on threads, each computing on one core: whole chunks side by side scale better than each kernel does."""
    prepared, stopped, threads_before = job.prepare(), threading.Event(), torch.get_num_threads()
    workers = threads(job.config, job.execution, len(chunks))

    def tick() -> None:
        bar.update(1)
        if stopped.is_set():
            raise KeyboardInterrupt

    def work(chunk: list[Run]) -> list[dict[str, Any]]:
        if workers > 1:
            torch.set_num_threads(1)
        before = [interrupted[run.name] for run in chunk if run.name in interrupted]
        return job(chunk, prepared, first=first, interrupted=before, tick=tick, compiles=chunk is chunks[0])

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

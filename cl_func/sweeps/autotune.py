"""How a sweep runs: how many lanes a chunk has, and whether it is compiled, chosen by the sizes and a few timed eager steps."""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from typing import Any

from cl_func import tree
from cl_func.core.nodes import calls
from cl_func.sweeps import compile_times
from cl_func.sweeps.jobs import Run, SweepJob
from cl_func.sweeps.trial import seconds_per_call, why_not
from cl_func.transforms import vmap

CACHE_BYTES = 12 * 2**20  # lanes whose weights, gradients and moments fit in this stay in a core's share of the cache


def autotune(job: SweepJob, runs: list[Run], compile: Any, lanes: Any) -> SweepJob:
    """The job with lanes and compilation chosen, by the size of the state and a few timed eager steps."""
    if lanes != "auto" and compile != "auto":
        return job
    single = job.start(runs[0])
    train, _ = dataclasses.replace(job, lanes=1).on_device().streams(runs[:1])
    if lanes == "auto":
        job = dataclasses.replace(job, lanes=_lanes(job, single, train, runs))
    if compile == "auto":
        update, state = job.strategy.update, single
        if job.lanes > 1:
            update, state = vmap(update), tree.stack([single] * job.lanes)
        count = sum(calls(job.strategy.update, len(exp)) for exp in train) * math.ceil(len(runs) / job.lanes)
        try:
            eager = seconds_per_call(update, state, train) * count
        except Exception as error:
            fault = job.fault(runs[0])
            if fault is None:
                raise
            raise ValueError(f"lanes: {fault} Or use lanes=1.") from error
        # Compiled steps take about half the time, as a rule, so that half of it is to be saved.
        job = dataclasses.replace(job, compiled=eager > 2 * compile_seconds(job, runs[0]), lenient=True)
    return job


def compile_seconds(job: SweepJob, run: Run) -> float:
    """How long compiling a job is expected to take."""
    return compile_times.expected(job.strategy.update, *job.first(run), job.lanes)


def cores() -> int:
    """How many cores this process may use; on a shared node that is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(job: SweepJob, chunks: int) -> int:
    """On how many threads so many chunks run here, side by side."""
    return min(chunks, cores()) if job.compiled and job.device is None else 1


def _lanes(job: SweepJob, single: Any, train: Any, runs: list[Run]) -> int:
    size = sum(
        leaf.numel() * leaf.element_size() for leaf in [*tree.leaves(single.model), *tree.leaves([single.model, single.opt])]
    )
    fitting = max(1, min(len(runs), 2 ** round(math.log2(max(1.0, CACHE_BYTES / size)))))
    workers = cores()
    chunks = max(1, round(len(runs) / fitting / workers)) * workers if fitting < len(runs) else 1
    count = math.ceil(len(runs) / chunks)
    if count == 1:
        return 1
    alone = seconds_per_call(job.strategy.update, single, train)  # what is wrong with it is raised here as it is
    try:
        together = seconds_per_call(vmap(job.strategy.update), tree.stack([single] * count), train) / count
        fault = job.probe_fault(runs[0])
    except Exception as error:
        fault = why_not("update", error)
    if fault is not None:
        warnings.warn(f"sweep: one run a chunk, since {fault} lanes=1 says that this is meant.", stacklevel=5)
        return 1
    return count if together < alone else 1

"""How a sweep runs: how many lanes a chunk has, and whether it is compiled, chosen by the sizes and a few timed eager steps."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from typing import Any

from cl_func import tree
from cl_func.core import At, Compose, Minibatches, Repeat
from cl_func.jobs import Job, Run
from cl_func.transforms import vmap

CACHE_BYTES = 12 * 2**20  # lanes whose weights, gradients and moments fit in this stay in a core's share of the cache
COMPILE_SECONDS = 12.0  # what a cold compilation of a step costs, about; compiling must save more


class _Enough(Exception):  # noqa: N818 - no error: ends a measurement
    pass


def _seconds_per_call(update: Any, state: Any, train: Any, calls: int = 6) -> float:
    """The median time of the first leaf calls of an eager update on a stream."""
    times: list[float] = []

    def timed(leaf: Any) -> Any:
        def call(state: Any, exp: Any) -> Any:
            start = time.perf_counter()
            out = leaf(state, exp)
            times.append(time.perf_counter() - start)
            if len(times) >= calls:
                raise _Enough
            return out

        return call

    try:
        for exp in train:
            state = tree.map(timed, update)(state, exp)
    except _Enough:
        pass
    return sorted(times)[len(times) // 2]


def leaf_calls(update: Any, n: int) -> int:
    """How many leaf calls an update makes on an experience of n rows."""
    if isinstance(update, Compose):
        return sum(leaf_calls(part, n) for part in update.updates)
    if isinstance(update, Repeat):
        return update.times * leaf_calls(update.update, n)
    if isinstance(update, At):
        return leaf_calls(update.update, n)
    if isinstance(update, Minibatches):
        size = update.batch_size or n
        per_pass = max(1, n // size if update.drop_last else -(-n // size))
        total = update.iterations or update.epochs * per_pass
        return total * leaf_calls(update.step, size) + (-(-total // per_pass) if update.order is not None else 0)
    return 1


def planned(job: Job, runs: list[Run], compile: Any, lanes: Any, remote: bool) -> Job:
    """The job with lanes and compilation chosen, by the size of the state and a few timed eager steps."""
    if lanes != "auto" and compile != "auto":
        return job
    single = job.start(runs[0])
    train, _ = dataclasses.replace(job, lanes=1).on_device().streams(runs[:1])
    if lanes == "auto":
        job = dataclasses.replace(job, lanes=_lanes(job, single, train, runs, remote))
    if compile == "auto":
        update, state = job.strategy.update, single
        if job.lanes > 1:
            update, state = vmap(update), tree.stack([single] * job.lanes)
        calls = sum(leaf_calls(job.strategy.update, len(exp)) for exp in train) * math.ceil(len(runs) / job.lanes)
        eager = _seconds_per_call(update, state, train) * calls
        job = dataclasses.replace(job, compiled=eager > 2 * COMPILE_SECONDS, lenient=True)
    return job


def cores() -> int:
    """How many cores this process may use; on a shared node that is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _lanes(job: Job, single: Any, train: Any, runs: list[Run], remote: bool) -> int:
    if len(runs) == 1:
        return 1
    size = sum(
        leaf.numel() * leaf.element_size() for leaf in [*tree.leaves(single.model), *tree.leaves([single.model, single.opt])]
    )
    fitting = max(1, min(len(runs), 2 ** round(math.log2(max(1.0, CACHE_BYTES / size)))))
    workers = cores()
    chunks = max(1, round(len(runs) / fitting / workers)) * workers if fitting < len(runs) else 1
    count = math.ceil(len(runs) / chunks)
    together = _seconds_per_call(vmap(job.strategy.update), tree.stack([single] * count), train) / count if count > 1 else math.inf
    return count if together < _seconds_per_call(job.strategy.update, single, train) else 1

"""How a sweep runs: how many lanes a chunk has, and whether it is compiled, chosen by the sizes and a few timed eager steps."""

from __future__ import annotations

import math
import os
from typing import Literal

from cl_func import tree
from cl_func.core.nodes import calls
from cl_func.sweeps import compile_times
from cl_func.sweeps.jobs import Execution
from cl_func.sweeps.run_config import FirstRun
from cl_func.sweeps.trial import seconds_per_call, why_not
from cl_func.transforms import vmap

CACHE_BYTES = 12 * 2**20  # lanes whose weights, gradients and moments fit in this stay in a core's share of the cache


def autotune(first: FirstRun, n_runs: int, compile: bool | Literal["auto"], lanes: int | Literal["auto"]) -> Execution:
    """How to run so many runs like the first one; what is not "auto" is taken as it is.

    Raises what is wrong with the update itself, and ValueError where more lanes are asked for than one and it cannot be vmapped.
    """
    fault = None
    if lanes == "auto":
        lanes, fault = _lanes(first, n_runs)
    if compile is False:
        return Execution(lanes, compiled=False, fault=fault)
    update, state = first.config.strategy.update, first.state
    compiling = compile_times.expected(update, state, first.experience, lanes)
    if compile is True:
        return Execution(lanes, compiled=True, compile_seconds=compiling, fault=fault)
    train = first.benchmark.train
    count = sum(calls(update, len(exp)) for exp in train) * math.ceil(n_runs / lanes)
    if lanes > 1:
        update, state = vmap(update), tree.stack([state] * lanes)
    try:
        eager = seconds_per_call(update, state, train) * count
    except Exception as error:
        reason = first.fault()
        if reason is None:
            raise
        raise ValueError(f"lanes: {reason} Or use lanes=1.") from error
    # Compiled steps take about half the time, as a rule, so that half of it is to be saved.
    return Execution(lanes, compiled=eager > 2 * compiling, lenient=True, compile_seconds=compiling, fault=fault)


def cores() -> int:
    """How many cores this process may use; on a shared node that is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _lanes(first: FirstRun, n_runs: int) -> tuple[int, str | None]:
    """How many runs a chunk has; and if it is one because runs cannot be vmapped, why."""
    single = first.state
    size = sum(
        leaf.numel() * leaf.element_size() for leaf in [*tree.leaves(single.model), *tree.leaves([single.model, single.opt])]
    )
    fitting = max(1, min(n_runs, 2 ** round(math.log2(max(1.0, CACHE_BYTES / size)))))
    workers = cores()
    chunks = max(1, round(n_runs / fitting / workers)) * workers if fitting < n_runs else 1
    count = math.ceil(n_runs / chunks)
    if count == 1:
        return 1, None
    update, train = first.config.strategy.update, first.benchmark.train
    together = math.inf
    alone = seconds_per_call(update, single, train)  # what is wrong with it is raised here as it is
    try:
        together = seconds_per_call(vmap(update), tree.stack([single] * count), train) / count
        fault = first.probe_fault()
    except Exception as error:
        fault = why_not("update", error)
    return (1, fault) if fault is not None else (count if together < alone else 1, None)

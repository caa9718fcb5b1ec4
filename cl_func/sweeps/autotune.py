"""How a sweep runs: the lanes of a chunk, and whether to compile, chosen by the size of a run and a few timed eager steps."""

from __future__ import annotations

import math
import os

from cl_func import tree
from cl_func.core.nodes import calls
from cl_func.sweeps import compile_times
from cl_func.sweeps.jobs import AutoBool, AutoInt, Execution
from cl_func.sweeps.run_config import FirstRun
from cl_func.sweeps.trial import seconds_per_call, why_not
from cl_func.transforms import vmap

CACHE_BYTES = 12 * 2**20  # a core's share of the cache, into which the weights, gradients and moments of all lanes should fit


def autotune(first: FirstRun, n_runs: int, compile: AutoBool, lanes: AutoInt) -> Execution:
    """How to execute n_runs runs like the first one; an argument other than "auto" is kept.

    Raises the error of an update that does not work at all, and ValueError if lanes > 1 are given and it cannot be vmapped.
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
    # Compiled steps take about half as long as eager ones, so compiling can save half of the eager time.
    return Execution(lanes, compiled=eager > 2 * compiling, lenient=True, compile_seconds=compiling, fault=fault)


def cores() -> int:
    """How many cores this process may use, which on a shared node may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _lanes(first: FirstRun, n_runs: int) -> tuple[int, str | None]:
    """How many runs a chunk has, and the reason if it has one because runs cannot be vmapped."""
    single = first.state
    # What a step reads and writes: the parameters, their gradients, and the optimiser; of another state than an Agent all of it.
    agent = hasattr(single, "model") and hasattr(single, "opt")
    leaves = [*tree.leaves(single.model), *tree.leaves([single.model, single.opt])] if agent else tree.leaves(single)
    size = max(1, sum(leaf.numel() * leaf.element_size() for leaf in leaves))
    cached = max(1, min(n_runs, 2 ** round(math.log2(max(1.0, CACHE_BYTES / size)))))
    workers = cores()
    chunks = max(1, round(n_runs / cached / workers)) * workers if cached < n_runs else 1
    count = math.ceil(n_runs / chunks)
    if count == 1:
        return 1, None
    update, train = first.config.strategy.update, first.benchmark.train
    together = math.inf
    alone = seconds_per_call(update, single, train)  # an update that does not work at all raises its own error here
    try:
        together = seconds_per_call(vmap(update), tree.stack([single] * count), train) / count
        fault = first.probe_fault()
    except Exception as error:
        fault = why_not("update", error)
    return (1, fault) if fault is not None else (count if together < alone else 1, None)

"""What a sweep consists of, and the checks of its arguments: all that can be wrong is said before anything is run or written."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optree
import torch
from torch import Tensor

from cl_func import checks, signatures, tree, user_warnings
from cl_func.checks import positive_int
from cl_func.core import Probe, Strategy
from cl_func.core.single_step import warn_single_step
from cl_func.evaluation.probe import Evaluate
from cl_func.experiences import Benchmark, Experience, Stream
from cl_func.progress import SharedBar
from cl_func.storage import resuming
from cl_func.storage.checkpoint import Checkpoint
from cl_func.streams.lazy import Lazy
from cl_func.sweeps import chosen, passes
from cl_func.sweeps.grids import Grid, label
from cl_func.sweeps.named_axes import Axes
from cl_func.sweeps.run_config import FirstRun, Run, RunConfig


def check_options(
    *,
    probe: Any,
    every: Any,
    compile: Any,
    lanes: Any,
    executor: Any,
    progress: Any,
    device: Any,
    resume: Any,
    checkpoint: Any,
    on_change: Any,
    tap: Any,
) -> None:
    """Check the arguments of a sweep that say how it is run; TypeError or ValueError."""
    checks.choice("compile", compile, True, False, "auto")
    if not isinstance(progress, SharedBar):
        checks.flag("progress", progress)
    checks.device("device", device)
    resuming.on_change(on_change)
    positive_int("every", every)
    if probe is not None:
        signatures.probe("probe", probe)
    if not (isinstance(lanes, str) and lanes == "auto"):
        positive_int("lanes", lanes)
    if tap is not None:
        signatures.function("tap", tap, 3, "a function (time, entry, labels), such as one of cl.taps")
    if executor is not None:
        checks.function("executor", getattr(executor, "submit", None), "an executor, with a method submit")
        context = getattr(executor, "_mp_context", None)  # of a ProcessPoolExecutor
        fault = _fault_of_forks() if context is not None and context.get_start_method() == "fork" else None
        if fault is not None:
            user_warnings.warn(f"executor: its processes are forked, and in these {fault}.")
    if resume is not None and not _is_folder(resume):
        raise ValueError(f"resume: expected the path of a folder, got {resume!r}, which is a file or nothing.")
    if checkpoint is not None:
        if not isinstance(checkpoint, Checkpoint):
            raise TypeError(f"checkpoint: expected a cl.Checkpoint(folder), got {checkpoint!r}.")
        if resume is not None:
            raise ValueError("resume, checkpoint: a checkpoint keeps finished runs too; give one of them.")


def _fault_of_forks() -> str | None:
    """What goes wrong in processes that are forked from this one, and what to do about it; None if nothing does."""
    spawn = "give it mp_context=multiprocessing.get_context('spawn')"
    if torch.backends.cuda.is_built():
        return f"torch, of a build for CUDA, refuses to differentiate once this process has done so; {spawn}"
    if torch.get_num_threads() > 1:
        return f"torch waits for ever for threads that it has used; {spawn}, or call torch.set_num_threads(1) first"
    return None


def plan(
    strategy: Strategy,
    benchmark: Benchmark | Callable[[Tensor], Benchmark],
    seeds: int | Sequence[int],
    hparams: Grid | Mapping[str, Any] | None,
    probe: Probe | None,
    every: int,
    device: str | torch.device | None,
    here: bool,
) -> tuple[FirstRun, list[Run], Axes]:
    """What a sweep consists of: its first run, all runs, and the axes of its result; here: whether it runs in this process.

    Raises TypeError or ValueError, before anything is run, for what the sweep would raise it for.
    """
    if not isinstance(strategy, Strategy):
        raise TypeError(f"strategy: expected a cl.Strategy(init, update), got {tree.describe(strategy)}.")
    if not isinstance(benchmark, Benchmark):
        signatures.function("benchmark", benchmark, 1, "a Benchmark or a function from a key to one")
    values = chosen.check_point("hparams", hparams if isinstance(hparams, Mapping) else {})
    if hparams is not None and not isinstance(hparams, (Grid, Mapping)):
        raise TypeError(f"hparams: expected a grid, cl.grid({{path: values}}), or a point, {{path: value}}, got {hparams!r}.")
    seed_list = as_seeds(seeds)
    if probe is None and strategy.model is None:
        raise ValueError(
            "probe: the strategy names no model; give probe=cl.evaluate(model, benchmark.test) or Strategy(init, update, model)."
        )
    grid = hparams if isinstance(hparams, Grid) else Grid()
    runs = [Run(0, seed, {**values, **varied}) for varied in grid.points() for seed in seed_list]
    runs = [dataclasses.replace(run, index=i) for i, run in enumerate(runs)]
    names = [*(name for name, _ in grid.axes), "seed"]
    if len(set(names)) < len(names):
        raise ValueError(f"hparams: two axes would have one name, {names}, of which the last is for the seeds; rename the others.")
    axes: Axes = {name: [label(point) for point in points] for name, points in grid.axes}
    axes["seed"] = list(seed_list)
    config = RunConfig(strategy, benchmark, probe, every, device)
    first = FirstRun(config.on_device() if here else config, runs[0])
    first.check(runs)  # before anything is written
    fault = _fault_of_order(first.benchmark)
    if fault is not None:
        user_warnings.warn(f"benchmark: {fault}")
    if len(first.benchmark.train):
        warn_single_step(strategy.update, first.benchmark.train[0], len(first.benchmark.train))
    if len(seed_list) > 1 and not isinstance(benchmark, Benchmark) and not config.evaluates and _evaluates(probe):
        tests = [list(config.benchmark_of(run).test) for run in runs[:2]]
        if not _same(*tests):
            user_warnings.warn(
                "probe: it measures all seeds on one test stream, though each has its own, of other rows, classes or inputs; "
                "give cl.probes.on_test(lambda test: ...), such as the same probe of `test`."
            )
    return first, runs, axes


def _fault_of_order(benchmark: Benchmark) -> str | None:
    """What is wrong with a benchmark whose test stream has the experiences of the train stream in another order, in words."""
    train, test = _indices(benchmark.train), _indices(benchmark.test)
    if train == test or sorted(train) != sorted(test):  # the latter is an online stream that is measured on whole experiences
        return None
    at = next(i for i, (a, b) in enumerate(zip(train, test, strict=True)) if a != b)
    return (
        f"its streams have the same experiences in two orders: number {at} has the index {train[at]} in `train`, {test[at]} in "
        "`test`. Metrics of the accuracy matrix, such as forgetting, take number i of both for one experience; order them alike."
    )


def _indices(stream: Stream) -> list[int]:
    """The index of each experience; none where experiences would have to be made for it, or are very many."""
    base, at = stream.based()
    if len(at) > passes.MOST or not isinstance(base, (Lazy, list, tuple)):
        return []
    return [int((base.view(i) if isinstance(base, Lazy) else base[i]).index) for i in at]


def _evaluates(probe: Any) -> bool:
    """Whether `cl.evaluate` is a part of a probe."""
    nodes = optree.tree_leaves(probe, is_leaf=lambda node: isinstance(node, Evaluate), namespace=tree.NAMESPACE)
    return any(isinstance(node, Evaluate) for node in nodes)


def _same(a: Sequence[Experience], b: Sequence[Experience]) -> bool:
    """Whether two streams have the same rows of the same data; what they share is not compared."""
    if len(a) != len(b) or any(tree.flatten(x)[1] != tree.flatten(y)[1] for x, y in zip(a, b, strict=True)):
        return False
    pairs = [pair for x, y in zip(a, b, strict=True) for pair in zip(tree.leaves(x), tree.leaves(y), strict=True)]
    return all(x is y or (x.shape == y.shape and torch.equal(x, y)) for x, y in pairs)


def _is_folder(path: Any) -> bool:
    """Whether a path is that of a folder, or of nothing that exists yet."""
    return str(checks.instance("resume", path, (str, Path), "the path of a folder")) != "" and not Path(path).is_file()


def as_seeds(seeds: Any) -> list[int]:
    """The seeds as Python integers: 0, 1, ... for a number of them, or those given."""
    expected = "how many, or a sequence of distinct integers"
    if isinstance(seeds, (int, np.integer)):
        return list(range(positive_int("seeds", seeds if isinstance(seeds, int) else int(seeds))))
    if not isinstance(seeds, (Sequence, Tensor, np.ndarray)) or isinstance(seeds, (str, bytes)) or getattr(seeds, "ndim", 1) != 1:
        raise checks.type_error("seeds", expected, seeds)
    try:
        numbers = [operator.index(seed) for seed in seeds]
    except (TypeError, RuntimeError) as error:
        raise checks.type_error("seeds", expected, seeds) from error
    if any(isinstance(seed, bool) for seed in seeds) or len(set(numbers)) != len(numbers) or not numbers:
        raise ValueError(f"seeds: expected {expected}, got {tree.describe(seeds)}.")
    if not all(-(1 << 63) <= seed < 1 << 64 for seed in numbers):
        raise ValueError(f"seeds: expected integers of 64 bits, got {numbers}.")
    if len({seed % (1 << 64) for seed in numbers}) != len(numbers):
        raise ValueError(f"seeds: two of {numbers} are one key, since they differ by 2^64.")
    return numbers

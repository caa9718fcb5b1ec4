"""Sweeps: seeds times hyperparameters of one strategy as few vmapped, compiled programs.

The runs are cut into chunks of lanes; each chunk is one fold of `cl.compile(cl.vmap(update))`, and chunks run side by side: on
threads of this process, or on any `concurrent.futures.Executor`. Lane i of a chunk equals the single run with its seed and
values, so the result depends neither on the chunks nor on where they ran.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import itertools
import operator
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.checks import positive_int
from cl_func.core import Strategy
from cl_func.core.loop import scan
from cl_func.experiences import Benchmark
from cl_func.storage import fingerprint, resuming
from cl_func.storage.checkpoint import Checkpoint, locked
from cl_func.sweeps.autotune import autotune, compile_seconds, threads
from cl_func.sweeps.finished import FinishedRuns
from cl_func.sweeps.grids import Grid, label
from cl_func.sweeps.interrupted import InterruptedRun, partial_runs
from cl_func.sweeps.jobs import Run, SweepJob, before
from cl_func.sweeps.progress import ProgressBar
from cl_func.sweeps.remote import run_on
from cl_func.sweeps.runs import Runs


def sweep(
    strategy: Strategy,
    benchmark: Benchmark | Callable[[Tensor], Benchmark],
    *,
    seeds: int | Sequence[int] = 10,
    hparams: Grid | None = None,
    probe: Any = None,
    every: int = 1,
    compile: bool | Literal["auto"] = "auto",
    lanes: int | Literal["auto"] = "auto",
    executor: Any = None,
    progress: bool = True,
    device: Any = None,
    resume: str | Path | None = None,
    checkpoint: Checkpoint | None = None,
    on_change: Literal["error", "warn"] = "error",
) -> Runs:
    """Run a strategy for every seed and every point of a grid of hyperparameters.

    benchmark: a Benchmark; or a function from a key to one, called with a key of each seed, for a class order per seed:
        `lambda key: cl.streams.split_by_class(train, test, n_experiences=5, key=key)`. The datasets are shared, not copied.
    seeds: how many (0, 1, ...), or which. hparams: from `cl.grid`, `cl.zipped`, `cl.random_grid`; paths of leaves of the state.
    probe: what is measured after every experience; by default the evaluation of `strategy.model` on the test stream. With
        `device`, make its stream there.
    every: measure only after every so many experiences, and after the last; for online streams.
    compile: "auto" compiles if an eager sweep would take clearly longer than compiling, by what that took on this machine before
        (kept in ~/.cache/cl_func, or the folder CL_FUNC_CACHE_DIR).
    lanes: runs per chunk; "auto" takes what fits the cache, or 1 where a few timed steps show that vmapping loses, or, with a
        warning that names the reason, cannot be. ValueError where it cannot be and more are asked for.
    device: where the runs are, such as "cuda"; initial states and streams are moved there. None: where `init` makes them.
    executor: chunks are submitted to it (a process pool, `dask_client.get_executor()`, a submitit executor), which needs the
        cloudpickle package. The data are brought to each worker once, by files that are there while the sweep runs: in the folder
        of `resume`, in `executor.folder`, or among temporary files; a worker that sees none of these is sent them. Without an
        executor chunks run here, on a thread per core if compiled.
    resume: a folder that keeps finished runs; a sweep that finds them there goes on with the rest, whatever the chunks. Seeds and
        points of a grid may be added or left out: a run is known by its seed and its values.
    progress: show a bar over the looks at chunks on stderr (with tqdm), or now and then a line (without).
    checkpoint: a `cl.Checkpoint(folder)` that keeps finished runs and saves the others on their way, also within an experience.
    on_change: for a folder of a sweep with another update, probe, `every`, initial state or other data: "error" raises ValueError
        with a list of what has changed, "warn" takes its runs all the same, after a warning.

    Ctrl-C returns the finished runs, after a warning; the others are NaN. It is raised where none is finished. On an executor, a
    chunk that fails or whose worker dies is reported as a RuntimeError that names its runs, when all others are done; state classes
    of your own must then be importable, not defined in the script that is run. Raises TypeError or ValueError for other arguments,
    unknown paths, no probe, bad seeds.
    """
    started = time.perf_counter()
    if not isinstance(strategy, Strategy):
        raise TypeError(f"strategy: expected a cl.Strategy(init, update), got {tree.describe(strategy)}.")
    if not isinstance(benchmark, Benchmark) and not callable(benchmark):
        raise TypeError(f"benchmark: expected a Benchmark or a function from a key to one, got {tree.describe(benchmark)}.")
    if hparams is not None and not isinstance(hparams, Grid):
        raise TypeError(f"hparams: expected a grid, cl.grid({{path: values}}), got {hparams!r}.")
    checks.choice("compile", compile, True, False, "auto")
    checks.flag("progress", progress)
    checks.device("device", device)
    resuming.on_change(on_change)
    if probe is not None:
        checks.function("probe", probe)
    asked = 1 if isinstance(lanes, str) and lanes == "auto" else positive_int("lanes", lanes)
    if executor is not None:
        checks.function("executor", getattr(executor, "submit", None), "an executor, with a method submit")
    if resume is not None and not _is_folder(resume):
        raise ValueError(f"resume: expected the path of a folder, got {resume!r}, which is a file or nothing.")
    numbers = _seeds(seeds)
    if probe is None and strategy.model is None:
        raise ValueError(
            "probe: the strategy names no model; give probe=cl.evaluate(model, benchmark.test) or Strategy(init, update, model)."
        )
    hparams = hparams or Grid()
    runs = [Run(0, seed, point) for point in hparams.points() for seed in numbers]
    runs = [dataclasses.replace(run, index=i) for i, run in enumerate(runs)]
    names = [*(name for name, _ in hparams.axes), "seed"]
    if len(set(names)) < len(names):
        raise ValueError(f"hparams: two axes would have one name, {names}, of which the last is for the seeds; rename the others.")
    axes: dict[str, list[Any]] = {name: [label(point) for point in points] for name, points in hparams.axes}
    axes["seed"] = list(numbers)
    if checkpoint is not None:
        if not isinstance(checkpoint, Checkpoint):
            raise TypeError(f"checkpoint: expected a cl.Checkpoint(folder), got {checkpoint!r}.")
        if resume is not None:
            raise ValueError("resume, checkpoint: a checkpoint keeps finished runs too; give one of them.")
        # Workers may have another working directory.
        checkpoint = dataclasses.replace(checkpoint, folder=Path(checkpoint.folder).resolve())
        resume = checkpoint.folder
    job = SweepJob(strategy, benchmark, probe, compile is True, asked, device, positive_int("every", every), checkpoint)
    job.start(runs[0])  # what init gives is checked before it is written down
    with contextlib.nullcontext() if resume is None else locked(resume):
        insist: Any = "warn" if checkpoint is not None and checkpoint.on_change == "warn" else on_change
        ledger = FinishedRuns(runs, [len(v) for v in axes.values()], resume, lambda: _fingerprint(job), insist)
        job = _work(job, runs, ledger, compile, lanes, executor, progress)

    def replay(index: int) -> Any:
        single = dataclasses.replace(job, lanes=1, compiled=False).on_device()
        return scan(strategy.update, single.start(runs[index]), single.streams([runs[index]])[0])[0]

    return Runs(axes, *ledger.collect(), time.perf_counter() - started, replay)


def _work(
    job: SweepJob, runs: list[Run], ledger: FinishedRuns, compile: Any, lanes: Any, executor: Any, progress: bool
) -> SweepJob:
    """Do what is left of a sweep; gives the job as it was planned."""
    left = [run for run in runs if not ledger.has(run.index)]
    if left:
        for run in {str(run.values): run for run in left}.values():
            job.start(run)  # every path and value is checked before anything is trained
        job = autotune(job, left, compile, lanes)
        partials = partial_runs(ledger.folder) if job.checkpoint is not None and ledger.folder is not None else {}
        chunks = _chunks(left, partials, job.lanes)
        bar = _bar(progress, job, chunks, executor is None)
        try:
            (_run_here if executor is None else run_on)(job, chunks, partials, ledger, bar, executor)
        except KeyboardInterrupt:
            if not ledger.count():
                raise
            warnings.warn(
                f"sweep: interrupted; {ledger.count()} of {len(runs)} runs are finished, the others are NaN.", stacklevel=3
            )
        finally:
            bar.close()
    return job


def _chunks(runs: list[Run], partials: dict[str, InterruptedRun], lanes: int) -> list[list[Run]]:
    """Runs cut into lanes; those that were interrupted go with others that are as far."""

    def position(run: Run) -> tuple[int, int]:
        return partials[run.name].position if run.name in partials else (0, 0)

    groups = [list(group) for _, group in itertools.groupby(sorted(runs, key=position, reverse=True), position)]
    return [group[i : i + lanes] for group in groups for i in range(0, len(group), lanes)]


def _is_folder(path: Any) -> bool:
    """Whether a path is that of a folder, or of nothing yet."""
    return str(checks.instance("resume", path, (str, Path), "the path of a folder")) != "" and not Path(path).is_file()


def _seeds(seeds: Any) -> list[int]:
    """Which seeds: as many as a number says, or those given, as Python's integers."""
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
    return numbers


def _fingerprint(job: SweepJob) -> dict[str, str]:
    """What a resumed sweep must have in common with its folder; of the initial states one, besides the function that makes them."""
    strategy, bench = job.strategy, job.benchmark
    parts = {"train": bench.train, "test": bench.test} if isinstance(bench, Benchmark) else {"benchmark": bench}
    probe = strategy.model if job.probe is None else job.probe  # evaluated on the test stream
    if job.probe is not None:
        parts.pop("test", None)
    return fingerprint.of(
        update=strategy.update, init=strategy.init, state=strategy.init(random.key(0)), probe=probe, every=job.every, **parts
    )


def _run_here(
    job: SweepJob, chunks: list[list[Run]], partials: dict[str, InterruptedRun], ledger: FinishedRuns, bar: Any, executor: None
) -> None:
    """Chunks on threads, one a core, each computing on one: whole chunks side by side scale better than each kernel does."""
    job = job.on_device()
    prepared, stopped, threads_before = job.prepare(), threading.Event(), torch.get_num_threads()
    workers = threads(job, len(chunks))

    def tick() -> None:
        bar.update(1)
        if stopped.is_set():
            raise KeyboardInterrupt

    def work(chunk: list[Run]) -> list[dict[str, Any]]:
        if workers > 1:
            torch.set_num_threads(1)
        return job(chunk, prepared, tick, before(chunk, partials), compiles=chunk is chunks[0])

    if workers == 1:
        for chunk in chunks:
            ledger.add(chunk, work(chunk))
        return
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        futures = {pool.submit(work, chunk): chunk for chunk in chunks}
        for future in concurrent.futures.as_completed(futures):
            ledger.add(futures[future], future.result())
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads_before)


def _bar(shown: bool, job: SweepJob, chunks: list[list[Run]], here: bool) -> ProgressBar:
    """A progress bar over the looks at chunks."""
    total, run = len(chunks) * job.length(chunks[0][0]), chunks[0][0]
    what = f"sweep ({'compiled' if job.compiled else 'eager'}, {job.lanes} run{'s' if job.lanes > 1 else ''} a chunk)"
    if not shown or not job.compiled:
        return ProgressBar(shown, total, what)
    compiling = f"sweep: compiling (about {compile_seconds(job, run):.0f} s, once{'' if here else ' a worker, in its first chunk'})"
    # The first look of each thread is compiled after it was counted.
    return ProgressBar(shown, total, what, compiling, threads(job, len(chunks)) if here else 0)

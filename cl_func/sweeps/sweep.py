"""Sweeps: one strategy with many seeds and hyperparameters, run by a few vmapped, compiled programs.

The runs are cut into chunks of lanes; each chunk is one fold of `cl.compile(cl.vmap(update))`, and chunks run side by side: on
threads of this process, or on any `concurrent.futures.Executor`. Lane i of a chunk equals the single run with its seed and
values, so the result depends neither on the chunks nor on where they are run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cl_func import tree, user_warnings
from cl_func.core import Probe, Strategy
from cl_func.core.loop import scan
from cl_func.core.tapping import Saved, Tap, reopen
from cl_func.experiences import Benchmark
from cl_func.progress import ProgressBar, SharedBar
from cl_func.storage.checkpoint import Checkpoint, locked
from cl_func.storage.resuming import OnChange
from cl_func.sweeps import chosen, named_axes, passes, planning, provenance
from cl_func.sweeps.autotune import autotune
from cl_func.sweeps.finished import FinishedRuns
from cl_func.sweeps.grids import Grid
from cl_func.sweeps.interrupted import InterruptedRun, interrupted_runs
from cl_func.sweeps.jobs import AutoBool, AutoInt, Execution, SweepJob
from cl_func.sweeps.local import run_here, threads
from cl_func.sweeps.made_of import made_of
from cl_func.sweeps.remote import Executor, Workers
from cl_func.sweeps.run_config import FirstRun, Run, RunConfig
from cl_func.sweeps.runs import Runs


def sweep(
    strategy: Strategy,
    benchmark: Benchmark | Callable[[Tensor], Benchmark],
    *,
    seeds: int | Sequence[int] = 10,
    hparams: Grid | Mapping[str, Any] | None = None,
    probe: Probe | None = None,
    every: int = 1,
    compile: bool | Literal["auto"] = "auto",
    lanes: int | Literal["auto"] = "auto",
    executor: Executor | None = None,
    progress: bool | SharedBar = True,
    device: str | torch.device | None = None,
    resume: str | Path | None = None,
    checkpoint: Checkpoint | None = None,
    on_change: Literal["error", "warn"] = "error",
    tap: Tap | None = None,
) -> Runs:
    """Run a strategy for every seed and every point of a grid of hyperparameters.

    benchmark: a Benchmark; or a function from a key to one, called with a key of each seed, for a class order per seed:
        `lambda key: cl.streams.split_by_class(train, test, n_experiences=5, key=key)`. The datasets are shared, not copied.
    seeds: how many (0, 1, ...), or a sequence of them.
    hparams: from `cl.grid`, `cl.zipped`, `cl.random_grid`; its paths are those of leaves of the state. Or one point, {path: value},
        such as a selection of `cl.select` gives: all runs have these values, and the Runs no axis for them.
    probe: what to measure after every experience; by default the evaluation of `strategy.model` on the test stream. If you give
        `device`, make the stream of the probe there. `cl.trace.probe(slots)` is measured beside that evaluation.
        Where each seed has a test stream of its own, `cl.probes.on_test(function)` measures something else on it.
    every: measure only after every `every`-th experience and after the last one; for online streams.
    compile: "auto" compiles if an eager sweep is expected to take clearly longer than compiling, judging by how long that took on
        this machine before (stored in ~/.cache/cl_func, or in the folder CL_FUNC_CACHE_DIR).
    lanes: runs per chunk; "auto" takes as many as fit the cache, but 1 if a few timed steps show that vmapping is slower, or, with
        a warning that gives the reason, that it is impossible. ValueError if it is impossible and more lanes are given.
    device: where to run, such as "cuda"; initial states and streams are moved there. None: where `init` makes them.
    executor: where to submit chunks (a process pool, `dask_client.get_executor()`, a submitit executor); needs the cloudpickle
        package. The data are sent to each worker once, in files that exist while the sweep runs: in the folder of `resume`, in
        `executor.folder`, or in the folder for temporary files; a worker that can see none of these receives the data with a task.
        Without an executor chunks run in this process, if compiled on one thread per core.
    resume: a folder that keeps the finished runs; a sweep that finds some there runs the others, whatever their chunks were. Seeds
        and points of the grid may be added or left out: a run is identified by its seed and its values.
    progress: show a progress bar on stderr (with tqdm), or a line from time to time (without); or the bar of longer work, to move.
    checkpoint: a `cl.Checkpoint(folder)` that keeps finished runs and also saves the others as they proceed, even within an
        experience.
    on_change: if the folder holds a sweep with another update, probe, `every`, initial state or other data, or files of another
        sweep: "error" raises ValueError with a list of the changes, "warn" uses its runs all the same, after a warning. With
        "error" the workers of an executor, too, must have the same code and constants as this process.
    tap: `tap(time, entry, labels)` is called with each new entry of the history of each run, and with its seed and
        hyperparameters by name, see `cl.taps`: as the runs go in this process, and on an executor when a chunk is done. Runs that
        the folder of `resume` or `checkpoint` holds complete are not given again; of one that was interrupted all entries are.

    Ctrl-C returns the finished runs after a warning, and NaN for the others; it is raised if none is finished. On an executor, a
    chunk that fails or whose worker dies leads to a RuntimeError that names its runs, once all others are done; your own state
    classes must then be importable, not defined in the script that is run. Raises TypeError or ValueError for bad arguments,
    unknown paths, bad seeds, or if there is nothing to measure.
    """
    started = time.perf_counter()
    planning.check_options(
        probe=probe,
        every=every,
        compile=compile,
        lanes=lanes,
        executor=executor,
        progress=progress,
        device=device,
        resume=resume,
        checkpoint=checkpoint,
        on_change=on_change,
        tap=tap,
    )
    first, runs, axes = planning.plan(strategy, benchmark, seeds, hparams, probe, every, device, executor is None)
    if checkpoint is not None:
        # Workers may have another working directory.
        checkpoint = dataclasses.replace(checkpoint, folder=Path(checkpoint.folder).resolve())
        resume = checkpoint.folder
    with contextlib.nullcontext() if resume is None else locked(resume):
        if checkpoint is not None and checkpoint.on_change == "warn":
            on_change = "warn"
        finished = FinishedRuns(runs, [len(v) for v in axes.values()], resume, partial(made_of, first, benchmark), on_change)
        missing = [run for run in runs if not finished.has(run.index)]
        if missing:
            if tap is not None and resume is not None:
                reopen(tap, Saved(Path(resume)), [run.labels for run in missing])
            _run(first, missing, finished, checkpoint, compile, lanes, executor, progress, tap, on_change)
    history, all_finished = finished.collect()
    where = provenance.of(strategy, tree.leaves(first.initial)[0].device if device is None else torch.device(device))
    if isinstance(hparams, Grid) and hparams.scales:
        where |= {"scales": dict(hparams.scales)}  # which pictures of the hyperparameters have
    where |= {"every": every, "experiences": len(first.benchmark.train)}
    dtypes = named_axes.dtypes(runs[0].values)
    attributes = {
        **where,
        **({named_axes.DTYPES: dtypes} if dtypes else {}),
        **chosen.attributes(hparams if isinstance(hparams, Mapping) else {}),
    }
    return Runs(axes, history, all_finished, time.perf_counter() - started, attributes, _Replay(first.config, runs))


def _run(
    first: FirstRun,
    missing: list[Run],
    finished: FinishedRuns,
    checkpoint: Checkpoint | None,
    compile: AutoBool,
    lanes: AutoInt,
    executor: Executor | None,
    progress: bool | SharedBar,
    tap: Tap | None,
    on_change: OnChange,
) -> None:
    """Run what is missing of a sweep: choose how, cut it into chunks, and run these here or on an executor."""
    interrupted = {} if checkpoint is None else interrupted_runs(Path(checkpoint.folder))
    if lanes != 1 and passes.differ(first.config, missing):
        if lanes != "auto":
            user_warnings.warn(
                "lanes: the experiences of the seeds differ in length, and with iterations= or drop_last=True lanes would not be "
                "their single runs, since a pass counts the padding; the runs are made one by one."
            )
        lanes = 1
    remote = None if executor is None else Workers(executor, first, checkpoint, finished, on_change == "error")
    bar = None
    try:
        with contextlib.nullcontext() if remote is None else remote as workers:
            execution = (autotune if workers is None else workers.autotune)(first, len(missing), compile, lanes)
            if execution.fault is not None:
                user_warnings.warn(f"sweep: one run a chunk, since {execution.fault} Give lanes=1 if this is intended.")
            chunks = _chunks(missing, interrupted, execution.lanes)
            bar = _bar(progress, first, execution, chunks, workers is None)
            if workers is None:
                run_here(
                    SweepJob(first.config, execution, checkpoint, finished.digest), first, chunks, interrupted, finished, bar, tap
                )
            else:
                workers.run(execution, first, chunks, interrupted, finished, bar, tap)
    except KeyboardInterrupt:
        if not finished.count():
            raise
        n = len(finished.names)
        user_warnings.warn(f"sweep: interrupted; {finished.count()} of {n} runs are finished, the others are NaN.")
    finally:
        if bar is not None:
            bar.close()


@dataclasses.dataclass(frozen=True)
class _Replay:
    """Trains one run of a sweep again, alone and eagerly, and returns its final state."""

    config: RunConfig
    runs: list[Run]

    def __call__(self, index: int) -> Any:
        run = self.runs[index]
        return scan(self.config.strategy.update, self.config.start(run), self.config.benchmark_of(run).train)[0]


def _chunks(runs: list[Run], interrupted: dict[str, InterruptedRun], lanes: int) -> list[list[Run]]:
    """Cut runs into chunks of lanes; interrupted ones share a chunk with others at the same position."""

    def position(run: Run) -> tuple[int, int, int]:
        return interrupted[run.name].position if run.name in interrupted else (0, 0, 0)

    groups = [list(group) for _, group in itertools.groupby(sorted(runs, key=position, reverse=True), position)]
    return [group[i : i + lanes] for group in groups for i in range(0, len(group), lanes)]


def _bar(shown: bool | SharedBar, first: FirstRun, execution: Execution, chunks: list[list[Run]], local: bool) -> ProgressBar:
    """A progress bar over the measurements of all runs."""
    total, lanes = sum(map(len, chunks)) * first.length, execution.lanes
    label = f"sweep ({'compiled' if execution.compiled else 'eager'}, {lanes} run{'s' if lanes > 1 else ''} a chunk)"
    if not shown or not execution.compiled:
        return ProgressBar(shown, total, label)
    once = "once" if local else "once a worker, in its first chunk"
    seconds = execution.compile_seconds
    compiling = f"sweep: compiling ({once})" if seconds is None else f"sweep: compiling (about {seconds:.0f} s, {once})"
    # The first measurement of each thread is counted before it is compiled.
    return ProgressBar(shown, total, label, compiling, threads(first.config, execution, len(chunks)) * lanes if local else 0)

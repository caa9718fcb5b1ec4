"""The job of a sweep: a chunk of runs, trained and measured side by side, in this process or another one."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from cl_func import tree
from cl_func.compiler.tracing import TraceError
from cl_func.core.kinds import Probe, Update
from cl_func.core.loop import run_stream
from cl_func.core.tapping import Tap
from cl_func.experiences import Benchmark
from cl_func.storage import files
from cl_func.storage.checkpoint import Checkpoint
from cl_func.storage.run_checkpointer import RunCheckpointer, restore_state, with_strides
from cl_func.sweeps import compile_times
from cl_func.sweeps.finished import DIGEST, History
from cl_func.sweeps.interrupted import InterruptedRun, saved_strides, stack_runs
from cl_func.sweeps.run_config import FirstRun, Run, RunConfig, streams
from cl_func.sweeps.taps import LaneTap
from cl_func.transforms import _lenient, _vmap
from cl_func.transforms import compile as compiled
from cl_func.tree.structure import by_path

F = TypeVar("F")
AutoInt = int | Literal["auto"]
AutoBool = bool | Literal["auto"]
Prepared = tuple[Update, Probe | None]


@dataclasses.dataclass(frozen=True)
class Execution:
    """How the chunks of a sweep are executed; chosen by `autotune`."""

    lanes: int
    compiled: bool
    lenient: bool = False  # compiled because of "auto": functions that cannot be traced run eagerly
    compile_seconds: float | None = None  # what compiling is expected to take, if known
    fault: str | None = None  # why runs cannot share a chunk, if they cannot


@dataclasses.dataclass(frozen=True)
class SweepJob:
    """Everything that is needed to run a chunk."""

    config: RunConfig
    execution: Execution
    checkpoint: Checkpoint | None = None
    digest: str = ""  # of what the runs are made of, for the files of the checkpoint

    def prepare(self) -> Prepared:
        """The update and the probe, vmapped and compiled; all chunks share them, and with them the compiled programs.

        The probe is None if it differs from chunk to chunk, being the evaluation on a test stream of each run's own.
        """
        config, probe = self.config, None
        if isinstance(config.benchmark, Benchmark):
            probe = config.probe_on(config.benchmark.test)
        elif not config.evaluates:
            probe = config.probe
        return self._transform(config.strategy.update, "update"), None if probe is None else self._transform(probe, "probe")

    def _transform(self, function: F, name: str) -> F:
        """An update or a probe, vmapped and compiled as this execution has it; `name` is what error messages call it."""
        if self.execution.lanes > 1:
            function = _vmap(function, name)
        if self.execution.compiled:
            function = compiled(function)
        return _lenient(function) if self.execution.lenient else function

    def __call__(
        self,
        runs: Sequence[Run],
        prepared: Prepared,
        *,
        first: FirstRun | None = None,
        interrupted: Sequence[InterruptedRun] = (),
        tick: Callable[[], None] | None = None,
        compiles: bool = False,
        tap: Tap | None = None,
    ) -> list[History]:
        """The histories of some runs.

        prepared: the result of `prepare`. first: the first run of the sweep, which need not be made again if it is among these.
        interrupted: where the runs were interrupted, all at the same position. tick: called at each measurement.
        compiles: whether this chunk compiles, for the others as well; the time that it takes is stored.
        tap: called with (time, entry, labels) for each run, from the first entry of its history on.
        """
        config, lanes = self.config, self.execution.lanes
        missing = lanes - len(runs)  # all chunks have the same shape, so the last one needs no program of its own
        benchmarks = [first.benchmark if first is not None and run == first.run else config.benchmark_of(run) for run in runs]
        train, test = streams([*benchmarks, *[benchmarks[-1]] * missing])
        update, probe = prepared
        if probe is None:
            probe = self._transform(config.probe_on(test), "probe")
        states = [first.state if first is not None and run == first.run else config.start(run) for run in runs]
        single = states[0]
        if interrupted:
            states = [restore_state(i.state, i.header, s, i.path) for i, s in zip(interrupted, states, strict=True)]
        checkpointer = self._checkpointer(runs, [*interrupted, *[interrupted[-1]] * missing] if interrupted else [])
        state = states[0] if lanes == 1 else tree.stack([*states, *[states[-1]] * missing])
        if interrupted:
            state = with_strides(state, saved_strides(interrupted, single, lanes))
        watch = compile_times.Watch(update, probe) if compiles and self.execution.compiled else None

        def measure(state: Any, exp: Any) -> Any:
            if watch is not None:
                watch.mark()
            if tick is not None:
                tick()
            entry = probe(state, exp)
            by_path("probe", entry)  # at once, and not when the runs are done
            if watch is not None:
                watch.mark()
            return entry

        try:
            _, history = run_stream(
                update,
                state,
                train,
                measure,
                every=config.every,
                donate=self.execution.compiled,
                tap=None if tap is None else LaneTap(tap, [run.labels for run in runs], lanes),
                checkpointer=checkpointer,
            )
        except Exception as error:
            fault = None if lanes == 1 or isinstance(error, TraceError) else FirstRun(config, runs[0]).fault()
            if fault is None:
                raise
            raise ValueError(f"lanes: {fault} Or use lanes=1.") from error
        if watch is not None:
            compile_times.record(config.strategy.update, single, benchmarks[0].train[0], lanes, watch.seconds())
        by_lane = [history] if lanes == 1 else [tree.map(lambda leaf, i=i: leaf[:, i], history) for i in range(len(runs))]
        return [{path or "value": leaf.cpu().numpy() for path, leaf in by_path("probe", lane).items()} for lane in by_lane]

    def _checkpointer(self, runs: Sequence[Run], interrupted: Sequence[InterruptedRun]) -> RunCheckpointer | None:
        """The checkpointer of a chunk, with its own folder; it resumes where the runs were interrupted."""
        if self.checkpoint is None:
            return None
        folder = Path(self.checkpoint.folder) / f"partial-{runs[0].index:06d}-{uuid.uuid4().hex[:8]}"
        extra = {"runs": [run.name for run in runs], "lanes": self.execution.lanes, DIGEST: self.digest}
        folder.mkdir(parents=True)
        files.write_bytes(folder / "runs.json", json.dumps(extra["runs"]).encode())
        saved = stack_runs(interrupted, self.execution.lanes) if interrupted else None
        # Without a fingerprint, since the sweep compares that.
        return RunCheckpointer(dataclasses.replace(self.checkpoint, folder=folder), {}, extra=extra, saved=saved)
